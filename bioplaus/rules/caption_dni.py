"""Image captions with a cerebellum: a cerebro-cerebellar network (ccRNN) predicts the gradient of
the words to come.

Boven et al. (2023, figure 8). As `dni`, with f the synthesiser and z = [h ; c], but truncation by
truncation, theta and phi changing after each:

    J_k = cross-entropy of its words + bootstrap_scale <stopgrad f(z_{k+1}), z_{k+1}>  theta: one Adam step
    S_k = |f(z_k) - dJ_k/dz_k|^2  summed over batch and units                     phi: one Adam step
"""

import dataclasses

import torch
from torch import Tensor

from bioplaus.nets.synthesiser import LastLayer, Synthesiser
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._captioning import CaptioningConfig, CaptioningRule
from bioplaus.rules._optimisers import Adam

_SMALL = {"n_units": [256, 64, 64, 60], "n_truncation": 4}
BENCHMARK = (
    BenchmarkCase(label="256-64-64-60, L 12, K 4", batch_size=50, n_steps=12, values=_SMALL),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CaptioningConfig):
    """Defaults: as published, before dropout 0.5 and 1024 synthesiser units of the figure."""

    n_synth_layers: int = 2  # hidden ReLU layers of the synthesiser
    n_synth_hidden: int | None = None  # their width; None: that of the state, 2 hidden units
    synth_last: LastLayer = (
        "zero_weight"  # start of the synthesiser's last layer; published: its bias is left random
    )
    bootstrap_scale: float = 0.1  # factor on predicted gradients, dimensionless
    bootstrap_last: bool = (
        True  # also add a predicted gradient after the last truncation, where no future exists
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_synth_layers", low=0)
        self.check("n_synth_hidden", low=1)
        self.check("bootstrap_scale", low=0)


class Rule(CaptioningRule):
    """Per truncation: f at its start, forward pass, f at its end, gradients of J_k and S_k, one
    step of theta and phi.

    Attributes
    ----------
    synthesiser : the cerebellum; parameters phi.

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023.

    Deviations
    ----------
    Those of `caption_bptt`. The published start of the synthesiser (last weights zero, last bias
    random) is the default, so its first predictions are not zero, unlike in the other tasks;
    `synth_last` "zero" mends it. `bootstrap_last` as in `dni`.
    """

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_state = 2 * config.n_units[2]
        self.synthesiser = Synthesiser(
            n_state,
            config.n_synth_layers,
            config.n_synth_hidden or n_state,
            generator,
            last=config.synth_last,
        )
        self.synth_optimiser = Adam(list(self.synthesiser.parameters()))

    def _fit_truncation(
        self, inputs: Tensor, targets: Tensor, state: Tensor, is_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        start = state.requires_grad_()
        loss, logits, end = self._forward(inputs, targets, start)
        objective, phi = loss, list(self.synthesiser.parameters())
        with torch.no_grad():
            sent, foreseen = self.synthesiser.trace(start), self.synthesiser(end)
        if self.config.bootstrap_last or not is_last:
            objective = loss + self.config.bootstrap_scale * (foreseen * end).sum()
        (target,) = self._step(objective, start)
        with torch.no_grad():
            grads = [torch.zeros_like(parameter) for parameter in phi]
            self.synthesiser.add_gradients(sent, 2 * (sent[-1] - target), grads)
            self.synth_optimiser.step(phi, grads, self.lr_now)
        return loss.detach(), logits.detach(), end.detach()
