"""Forward and backward pass of a `Synthesiser` in closed form, many rows at once.

Autograd's bookkeeping costs more than these small products. A cut weight is zero, so that the
forward pass needs no mask.
"""

import torch
from torch import Tensor

from bioplaus.nets.synthesiser import Synthesiser


def trace(synthesiser: Synthesiser, z: Tensor) -> list[Tensor]:
    """What every layer sends on, as `Synthesiser.activities`."""
    sent = [z]
    *hidden, last = synthesiser.linears
    for layer in hidden:
        sent.append(torch.addmm(layer.bias, sent[-1], layer.weight.t()).relu_())
    return [*sent, torch.addmm(last.bias, sent[-1], last.weight.t())]


def add_gradients(
    synthesiser: Synthesiser,
    sent: list[Tensor],
    d_out: Tensor,
    out: list[Tensor],
    keep: float = 0.0,
) -> None:
    """Add the gradients of the parameters to `keep` times what `out` holds, in the order of
    `parameters()`.

    Parameters
    ----------
    sent : the trace of the rows that learn.
    d_out : (rows, n_state), gradient of the synthesiser's loss with respect to the prediction.
    """
    delta, layers = d_out, synthesiser.linears
    for index in reversed(range(len(layers))):
        d_weight, d_bias = out[2 * index : 2 * index + 2]
        d_weight.addmm_(delta.t(), sent[index], beta=keep)
        torch.add(delta.sum(0), d_bias, alpha=keep, out=d_bias)
        if index > 0:
            delta = _through_relu(delta @ layers[index].weight, sent[index])
        elif synthesiser.mask is not None:
            d_weight.mul_(synthesiser.mask)


def input_gradient(synthesiser: Synthesiser, sent: list[Tensor], d_out: Tensor) -> Tensor:
    """Gradient with respect to z, (rows, n_state), of a loss whose gradient at the prediction is
    `d_out`.
    """
    delta, layers = d_out, synthesiser.linears
    for index in reversed(range(len(layers))):
        delta = delta @ layers[index].weight
        if index > 0:
            delta = _through_relu(delta, sent[index])
    return delta


def _through_relu(delta: Tensor, activity: Tensor) -> Tensor:
    """`delta` where the rectified `activity` is above zero, else zero; many times faster than a
    product with a mask.
    """
    return torch.ops.aten.threshold_backward(delta, activity, 0)
