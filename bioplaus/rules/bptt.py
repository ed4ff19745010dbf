"""Truncated back-propagation through time: the cortical network (cRNN) that learns without a
cerebellum.

Baseline of Boven, Pemberton, Chadderton, Apps and Costa (2021, 2023). A sequence of T steps is cut
into truncations of K steps; the state runs through, the gradient stops at the cuts. With one
parameter value for the whole sequence:

    L_k  = mean over batch, supervised steps of truncation k, and outputs, of the squared error  (drawing)
    L_n-1 = mean cross-entropy of the last step                                     (classification)
    dtheta = sum_k dL_k/dtheta, clipped to a norm of at most `clip`, handed to Adam once a batch

`n_truncation: null` is full back-propagation through time.
"""

import dataclasses

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._recurrent import RecurrentConfig, RecurrentRule

_DRAWING = {"n_units": [28, 30, 2], "loss": "mse", "spars_int": 4}
BENCHMARK = (
    BenchmarkCase(
        label="28-30-2, T 28, K 28",
        batch_size=50,
        n_steps=28,
        values=_DRAWING | {"n_truncation": None},
    ),
    BenchmarkCase(
        label="28-30-2, T 28, K 3", batch_size=50, n_steps=28, values=_DRAWING | {"n_truncation": 3}
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RecurrentConfig):
    """Defaults: published seq-MNIST classification at K = 3."""


class Rule(RecurrentRule):
    """One forward pass over the sequence, one backward pass over all truncations at once, one
    optimiser step.

    Recorded every epoch: "train_mse" (published scale: twice the summed squared error per
    coordinate of the supervised steps, over all T steps) or "train_nll"; "grad_norm", the norm
    before clipping.

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023; NeurIPS 2021 version arXiv:2110.11501.

    Deviations
    ----------
    The published divisor T of the reported drawing loss is kept although only some steps are
    supervised. Weights come from the run's own stream; the readout is drawn before any synthesiser,
    so that a cRNN and a ccRNN of one seed start from the same cerebrum (published: only the LSTM
    coincides). Left out because the papers never use them: other optimisers, other weight
    initialisations, early stopping, learning-rate decay, a context input, an optimiser step after
    every truncation.
    """

    @torch.no_grad()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        trace = self._run(x)
        measured, d_h, d_end = self._loss(trace, y)
        self.net.backward(trace, d_h, d_end)
        self.net.gradients(trace, self.grads[:-2])
        norms = self._clip(self.grads)
        self.optimiser.step(list(self.net.parameters()), self.grads, self.lr_now)
        return {**measured, "grad_norm": torch.linalg.vector_norm(norms)}
