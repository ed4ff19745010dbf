"""The cerebellum of a cerebro-cerebellar network: an MLP that predicts the loss gradient at a state
of the cerebrum.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.nets.lstm import blank, draw_linear

LastLayer = Literal["zero", "zero_weight", "random"]


class Synthesiser(nn.Module):
    """f(z) = W_L relu(... relu(W_1 z + b_1) ...) + b_L, from R^n_state to R^n_state.

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

    mask: Tensor | None

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
        layers = [blank(nn.Linear, a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            draw_linear(layer, generator)
        with torch.no_grad():
            if last != "random":
                layers[-1].weight.zero_()
            if last == "zero" and n_layers > 0:
                layers[-1].bias.zero_()
        self.register_buffer("mask", None)
        if n_fibres == -1:
            layers[0].weight.data.zero_()
        elif n_fibres is not None and n_fibres < n_state:
            rows = [
                torch.randperm(n_state, generator=generator)[:n_fibres] for _ in range(widths[1])
            ]
            self.set_mask(torch.zeros(widths[1], n_state).scatter_(1, torch.stack(rows), 1.0))

    @property
    def linears(self) -> list[nn.Linear]:
        """`layers` as a list."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def set_mask(self, mask: Tensor) -> None:
        """Cut the first layer's weights where `mask`, (n_out, n_state), is zero."""
        weight = self.linears[0].weight
        self.mask = mask.to(weight)
        weight.data.mul_(self.mask)

    def forward(self, z: Tensor) -> Tensor:
        """Predicted gradient, (rows, n_state), for states (rows, n_state)."""
        return self.activities(z)[-1]

    def activities(self, z: Tensor) -> list[Tensor]:
        """What every layer sends on: z, the hidden activities, the prediction; each (rows,
        width).
        """
        first, *others = self.linears
        weight = first.weight if self.mask is None else self.mask * first.weight
        sent = [z, functional.linear(z, weight, first.bias)]
        for layer in others:
            sent[-1] = sent[-1].relu()
            sent.append(layer(sent[-1]))
        return sent
