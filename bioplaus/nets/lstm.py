"""One-layer recurrent networks with a linear readout.

With input x_t, state z_t and output o_t at step t = 0, 1, ..., and z = 0 before every sequence:

    z_{t+1} = step(x_t, z_t)
    o_t     = W_out h_{t+1} + b_out         h: the part of z that the readout sees
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def blank(layer: type[Layer], *sizes: int, **options: object) -> Layer:
    """A layer whose parameters are yet to be drawn; unlike torch's constructors it leaves the
    global stream alone.
    """
    return layer(*sizes, **options, device="meta").to_empty(device="cpu")


def draw_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    """Weights and biases of `layer` from U(-b, b), b = 1 / sqrt(n_in): torch's default, from a
    stream of our own.
    """
    draw_uniform(layer.parameters(), 1 / math.sqrt(layer.in_features), generator)


def draw_uniform(parameters: Iterable[Tensor], bound: float, generator: torch.Generator) -> None:
    """Every parameter, in order, from U(-bound, bound)."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.uniform_(-bound, bound, generator=generator)


class Recurrent(nn.Module):
    """A recurrent layer and a linear readout.

    Attributes
    ----------
    rnn : torch's own layer: it holds the parameters and computes the evaluation.
    linear : readout, W_out (n_out, n_hidden) and b_out.
    n_hidden, n_state : widths of h and of the state z.

    Parameters
    ----------
    n_in, n_hidden, n_out : units.
    generator : weights and biases of the layer are drawn first, then the readout's, all from
        U(-1 / sqrt(n_hidden), 1 / sqrt(n_hidden)): torch's defaults.
    """

    layer: type[nn.RNNBase]
    n_parts: int  # vectors of n_hidden that the state is made of

    def __init__(self, n_in: int, n_hidden: int, n_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.rnn = blank(self.layer, n_in, n_hidden, batch_first=True)
        self.linear = blank(nn.Linear, n_hidden, n_out)
        self.n_hidden, self.n_state = n_hidden, self.n_parts * n_hidden
        draw_uniform(self.rnn.parameters(), 1 / math.sqrt(n_hidden), generator)
        draw_linear(self.linear, generator)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_ih, W_hh, b_ih and b_hh of the layer."""
        ((w_ih, w_hh, b_ih, b_hh),) = self.rnn.all_weights
        return w_ih, w_hh, b_ih, b_hh

    def step(self, x: Tensor, z: Tensor) -> Tensor:
        """The next state, (batch, n_state), after the input x, (batch, n_in), in the state z."""
        raise NotImplementedError

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """States after every step, (batch, T, n_state), for x of (batch, T, n_in), from state z."""
        states = []
        for x_t in x.unbind(1):
            z = self.step(x_t, z)
            states.append(z)
        return torch.stack(states, dim=1)

    def readout(self, z: Tensor) -> Tensor:
        """Outputs (..., n_out) in states (..., n_state)."""
        return self.linear(z[..., : self.n_hidden])

    def zero_state(self, n: int) -> Tensor:
        """z before every sequence, (n, n_state)."""
        return self.linear.weight.new_zeros(n, self.n_state)

    def hidden(self, x: Tensor) -> Tensor:
        """h after every step, (batch, T, n_hidden), for x of (batch, T, n_in), by torch's own
        layer.
        """
        return self.rnn(x)[0]


class LSTM(Recurrent):
    """Long short-term memory; z = [h ; c].

    i, f, o = sigmoid(W_ih x + b_ih + W_hh h + b_hh)    input, forget and output gate
    g       = tanh(W_ih x + b_ih + W_hh h + b_hh)       each with its own rows of W and b
    c'      = f c + i g
    h'      = o tanh(c')
    """

    layer = nn.LSTM
    n_parts = 2

    def step(self, x: Tensor, z: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = self.weights
        h, c = z.chunk(2, dim=1)
        i, f, g, o = (x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return torch.cat([h, c], dim=1)


class Tanh(Recurrent):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh);  z = h."""

    layer = nn.RNN
    n_parts = 1

    def step(self, x: Tensor, z: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = self.weights
        return torch.tanh(x @ w_ih.t() + b_ih + z @ w_hh.t() + b_hh)


CELLS: dict[str, type[Recurrent]] = {"lstm": LSTM, "tanh": Tanh}
