"""The cerebellum of a cerebro-cerebellar network: an MLP that predicts the loss gradient at a state
of the cerebrum.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from bioplaus.nets.lstm import blank, draw_linear

LastLayer = Literal["zero", "zero_weight", "random"]


class Synthesiser(nn.Module):
    """f(z) = W_L relu(... relu(W_1 z + b_1) ...) + b_L, from R^n_state to R^n_state; forward and
    backward in closed form.

    Parameters
    ----------
    n_state : width of the cerebral state z, and of the predicted gradient dLoss/dz.
    n_layers : number of hidden ReLU layers; 0 is one linear map.
    n_hidden : their width, N.
    generator : weights and biases are drawn layer by layer from U(-1 / sqrt(n_in), 1 / sqrt(n_in)),
        then the fibres.
    n_fibres : inputs that each unit of the first layer keeps, drawn without replacement; the other
        weights are zero and stay zero. None: all. -1: all weights of the first layer start at zero
        and are free to move (a published bug).
    last : "zero": weight and bias of the last layer start at zero (of a linear map, n_layers 0,
        only the weight), so that the first predictions are zero; "zero_weight": only the weight;
        "random": neither.

    Attributes
    ----------
    layers : the linear maps in order.
    mask : (n_out, n_state) buffer of the first layer's kept weights (1) and cut ones (0), or None.
    """

    def __init__(
        self,
        n_state: int,
        n_layers: int,
        n_hidden: int,
        generator: torch.Generator,
        *,
        n_fibres: int | None = None,
        last: LastLayer = "zero",
    ) -> None:
        super().__init__()
        widths = [n_state, *[n_hidden] * n_layers, n_state]
        self.layers = nn.ModuleList(
            blank(nn.Linear, a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        for layer in self.layers:
            draw_linear(layer, generator)
        with torch.no_grad():
            if last != "random":
                self.layers[-1].weight.zero_()
            if last == "zero" and n_layers > 0:
                self.layers[-1].bias.zero_()
        self.register_buffer("mask", None)
        if n_fibres == -1:
            self.layers[0].weight.data.zero_()
        elif n_fibres is not None and n_fibres < n_state:
            rows = [
                torch.randperm(n_state, generator=generator)[:n_fibres] for _ in range(widths[1])
            ]
            self.set_mask(torch.zeros(widths[1], n_state).scatter_(1, torch.stack(rows), 1.0))

    def set_mask(self, mask: Tensor) -> None:
        """Cut the first layer's weights where `mask`, (n_out, n_state), is zero."""
        self.mask = mask.to(self.layers[0].weight)
        self.layers[0].weight.data.mul_(self.mask)

    def forward(self, z: Tensor) -> Tensor:
        """Predicted gradient, (rows, n_state), for states (rows, n_state)."""
        return self.trace(z)[-1]

    def trace(self, z: Tensor) -> list[Tensor]:
        """What every layer sends on: z, the hidden activities, the prediction; each (rows,
        width).
        """
        sent = [z]
        for layer in self.layers[:-1]:
            sent.append(torch.addmm(layer.bias, sent[-1], layer.weight.t()).relu_())
        last = self.layers[-1]
        return [*sent, torch.addmm(last.bias, sent[-1], last.weight.t())]

    def add_gradients(
        self, sent: list[Tensor], d_out: Tensor, out: list[Tensor], keep: float = 0.0
    ) -> None:
        """Add the gradients of the parameters to `keep` times what `out` holds, in the order of
        `parameters()`.

        Parameters
        ----------
        sent : the trace of the rows that learn.
        d_out : (rows, n_state), gradient of the synthesiser's loss with respect to the prediction.
        """
        delta = d_out
        for number in reversed(range(len(self.layers))):
            d_weight, d_bias = out[2 * number : 2 * number + 2]
            d_weight.addmm_(delta.t(), sent[number], beta=keep)
            torch.add(delta.sum(0), d_bias, alpha=keep, out=d_bias)
            if number > 0:
                delta = _through_relu(delta @ self.layers[number].weight, sent[number])
            elif self.mask is not None:
                d_weight.mul_(self.mask)

    def input_gradient(self, sent: list[Tensor], d_out: Tensor) -> Tensor:
        """Gradient with respect to z, (rows, n_state), of a loss whose gradient at the prediction
        is `d_out`.
        """
        delta = d_out
        for number in reversed(range(len(self.layers))):
            delta = delta @ self.layers[number].weight
            if number > 0:
                delta = _through_relu(delta, sent[number])
        return delta


def _through_relu(delta: Tensor, activity: Tensor) -> Tensor:
    """`delta` where the rectified `activity` is above zero, else zero; many times faster than a
    product with a mask.
    """
    return torch.ops.aten.threshold_backward(delta, activity, 0)
