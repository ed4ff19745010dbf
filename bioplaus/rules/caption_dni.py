"""Image captions with a cerebellum: a cerebro-cerebellar network (ccRNN) predicts the gradient of
the words to come.

Boven et al. (2023, figure 8). As `dni`, with f the synthesiser (parameters phi) and z = [h ; c],
but as in `caption_bptt` truncation by truncation, theta and phi changing after each:

    J_k   = L_k + bootstrap_scale <stopgrad f(z_{k+1}), z_{k+1}>
    S_k   = |f(z_k) - dJ_k/dz_k|^2               (summed over batch and units, dJ_k/dz_k held fixed)
    theta <- theta - Adam(dJ_k/dtheta + weight_decay theta)
    phi   <- phi   - Adam(dS_k/dphi   + weight_decay phi)
"""

import dataclasses

import torch
from torch import Tensor

from bioplaus.nets.synthesiser import LastLayer, Synthesiser
from bioplaus.rules import caption_bptt
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._optimisers import Adam

_SMALL = {"n_units": [256, 64, 64, 60], "n_truncation": 4}
BENCHMARK = (
    BenchmarkCase(label="256-64-64-60, L 12, K 4", batch_size=50, n_steps=12, values=_SMALL),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(caption_bptt.Config):
    """Defaults: as published, before dropout 0.5 and 1024 synthesiser units of the figure."""

    n_synth_layers: int = 2  # hidden ReLU layers of the synthesiser
    n_synth_hidden: int | None = None  # their width; None: that of the state, 2 n_hidden
    # start of the synthesiser's last layer; published: its bias is left random
    synth_last: LastLayer = "zero_weight"
    bootstrap_scale: float = 0.1  # factor on predicted gradients, dimensionless
    # also add a predicted gradient after the last truncation, where no future exists
    bootstrap_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_synth_layers", low=0)
        self.check("n_synth_hidden", low=1)
        self.check("bootstrap_scale", low=0)


class Rule(caption_bptt.Rule):
    """Per truncation: forward pass, f at its start and end, gradients of J_k and S_k, one step of
    theta and phi.

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

    config: Config

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
        phi = list(self.synthesiser.parameters())
        self.synth_optimiser = Adam(phi, weight_decay=config.weight_decay)

    def _learn(
        self, inputs: Tensor, words: Tensor, z: Tensor, *, is_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        theta, phi = list(self.net.parameters()), list(self.synthesiser.parameters())
        start = z.requires_grad_()
        loss, logits, end = self._run(inputs, words, start)
        predicted = self.synthesiser(start.detach())
        with torch.no_grad():
            foreseen = self.synthesiser(end)
        objective = loss
        if self.config.bootstrap_last or not is_last:
            objective = loss + self.config.bootstrap_scale * (foreseen * end).sum()
        *d_theta, target = torch.autograd.grad(objective, [*theta, start], materialize_grads=True)
        d_phi = torch.autograd.grad((predicted - target).square().sum(), phi)
        self._descend(d_theta)
        with torch.no_grad():
            self.synth_optimiser.step(phi, d_phi, self.lr_now)
        return loss, logits, end
