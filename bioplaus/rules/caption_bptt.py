"""Image captions by truncated back-propagation through time: the cortical network (cRNN) without a
cerebellum.

Baseline of the captioning experiment of Boven et al. (2023, figure 8). For each truncation of K
words in turn, from the state that the one before ended in (held fixed): cross-entropy of its words,
and one Adam step.
"""

import dataclasses

from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._captioning import CaptioningConfig, CaptioningRule

_SMALL = {"n_units": [256, 64, 64, 60], "n_truncation": 4}
BENCHMARK = (
    BenchmarkCase(label="256-64-64-60, L 12, K 4", batch_size=50, n_steps=12, values=_SMALL),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CaptioningConfig):
    """Defaults: as published, before dropout 0.5 of the figure."""


class Rule(CaptioningRule):
    """One truncation after the other, an optimiser step after each.

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023.

    Deviations
    ----------
    The published image layer comes from a public checkpoint of a tutorial and is frozen; ours is
    learned with the rest (its option `train_enc`), but normalised by running statistics as the
    frozen one is, not by a batch's. Features are computed once, so images are not cropped and
    flipped at random.
    """

    def _fit_truncation(
        self, inputs: Tensor, targets: Tensor, state: Tensor, is_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, logits, end = self._forward(inputs, targets, state)
        self._step(loss)
        return loss.detach(), logits.detach(), end.detach()
