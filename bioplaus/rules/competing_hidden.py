"""Competing hidden units: features learned without labels by a local Hebbian rule with global
inhibition.

The unit that a sample drives most moves towards it, the k-th most driven moves away (Krotov and
Hopfield 2019). With v_b the samples of a batch and W the weights:

    A    = sign(W) |W|^(p-1)                              (for p = 2, A = W)
    I_bi = sum_j A_ij v_bj                                currents
    g_bi = 1       where I_bi is the largest of sample b
         = -delta  where it is the k-th largest
         = 0       else
    s_i  = sum_b g_bi I_bi
    D_ij = sum_b g_bi v_bj - s_i W_ij
    W    <- W + lr D / max|D|                             lr = lr0 (1 - epoch / n_epochs)

so a row that wins is driven to sum_j |W_ij|^p = 1, and the largest change of a weight is lr at
every update. What is passed on to a readout is max(I, 0)^power.
"""

import dataclasses

import torch
from torch import Tensor, nn

from bioplaus.config import Config as BaseConfig
from bioplaus.errors import BioplausError
from bioplaus.rules._base import BenchmarkCase, Count, LearningRule
from bioplaus.tasks import Spec

PRECISION = 1e-30  # least normaliser: a batch that changes nothing leaves the weights as they are
N_PREDICT = 1000  # rows handled at once by `predict`: bounds its memory

BENCHMARK = (
    BenchmarkCase(label="784-2000, p 2, k 2", batch_size=1000, values={"n_units": [784, 2000]}),
    BenchmarkCase(label="3072-2000, p 2, k 2", batch_size=1000, values={"n_units": [3072, 2000]}),
    BenchmarkCase(
        label="784-2000, p 3, k 7",
        batch_size=1000,
        values={"n_units": [784, 2000], "p": 3.0, "k": 7},
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """Defaults: the published MNIST demonstration."""

    n_units: tuple[int, ...] = (784, 100)  # inputs, hidden units
    p: float = 2.0  # Lebesgue exponent, at least 1; published: 2 and above
    k: int = 2  # rank of the unit that is pushed away, 2 .. hidden units
    delta: float = 0.4  # strength of that push, dimensionless
    lr: float = 0.02  # largest weight change of an update in epoch 0, dimensionless
    n_epochs: int = 200  # epochs over which lr falls linearly; it is 0 from then on
    init_mean: float = 0.0  # mean of the initial weights
    init_std: float = 1.0  # standard deviation of the initial weights
    power: float = 4.5  # exponent of the hidden representation
    # keep weights after so many epochs, below n_epochs (0: the initial ones)
    snapshot_epochs: tuple[int, ...] = ()
    n_snapshot_units: int = 25  # of the first so many units

    def __post_init__(self) -> None:
        self.check("n_units", low=1)
        if len(self.n_units) != 2:
            raise BioplausError(
                f"n_units is {list(self.n_units)}, but must be two numbers: inputs and hidden"
                " units."
            )
        if self.n_units[1] < 2:
            raise BioplausError(
                f"n_units is {list(self.n_units)}, but hidden units compete: there must be at least"
                f" 2, not {self.n_units[1]}."
            )
        self.check("p", low=1)
        self.check("k", low=2)
        if self.k > self.n_units[1]:
            raise BioplausError(
                f"k is {self.k}, but there are only {self.n_units[1]} hidden units to rank: it must"
                f" be from 2 to {self.n_units[1]}."
            )
        for name in ("delta", "lr", "init_std"):
            self.check(name, low=0)
        self.check("init_mean")
        self.check("n_epochs", low=1)
        self.check("snapshot_epochs", low=0, high=self.n_epochs - 1)
        self.check("power", low=0, open_low=True)
        self.check("n_snapshot_units", low=1)


class Rule(LearningRule):
    """One layer of competing units.

    Order of an update: all currents with the old weights; ranks; D over the whole batch; its
    largest entry; one step. Only rows that won or were k-th in the batch move.

    Attributes
    ----------
    weight : (n_hidden, n_in) float, W.
    lr_now : 0-d buffer, the rate of the current epoch; on the device, so that a captured step
        follows it.
    snapshots : (n_snapshots, n_units_kept, n_in) buffer, weights after the epochs of
        `snapshot_epochs`.
    watch : hears of phase "update", t = 0, after it: "current" [I], "first" and "kth" [the units'
        indices, (batch,) int64], "change" [D, (n_hidden, n_in)], "normaliser" [max|D|, 0-d, before
        its floor], "lr" [0-d].

    References
    ----------
    Krotov and Hopfield, Unsupervised learning by competing hidden units, PNAS 116(16), 2019. The
    authors' notebook: github.com/DimaKrotov/Biological_Learning.

    Deviations
    ----------
    The published loops sort all units for every sample; here the k largest are selected. Units with
    exactly equal currents are ranked as the selection happens to find them, there as here.
    1 <= p < 2 is allowed although the paper uses p >= 2: the update is well defined there. On a GPU
    the sums over a batch are taken in no fixed order, so the last bits of two runs differ.
    """

    config: Config
    lr_now: Tensor
    snapshots: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_in, n_hidden = config.n_units
        drawn = torch.randn(n_hidden, n_in, generator=generator)
        self.weight = nn.Parameter(
            drawn.mul_(config.init_std).add_(config.init_mean), requires_grad=False
        )
        self.register_buffer("lr_now", torch.tensor(config.lr))
        shape = (len(config.snapshot_epochs), min(config.n_snapshot_units, n_hidden), n_in)
        self.register_buffer("snapshots", torch.zeros(shape))

    @classmethod
    def check_task(cls, config: Config, spec: Spec) -> None:
        if spec.kind != "features":
            raise BioplausError(
                f"competing_hidden learns features without labels, but task {spec.name!r} is"
                f" {spec.kind}; the simulation hebbian trains it, and a readout on its features."
            )
        if config.n_units[0] != spec.n_in:
            raise BioplausError(
                f"n_units is {list(config.n_units)}, but data set {spec.name!r} has {spec.n_in}"
                f" inputs: n_units must start with {spec.n_in}."
            )

    @classmethod
    def example_spec(cls, config: Config, n_steps: int | None = None) -> Spec:
        n_in, n_out = config.n_units
        return Spec(name="example", kind="features", n_in=n_in, n_out=n_out)

    @classmethod
    def example_batch(
        cls,
        spec: Spec,
        n: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, ...]:
        """Inputs alone, (n, n_in), none of them 0: a sample of zeros drives all units alike."""
        return (1 - torch.rand(n, spec.n_in, generator=generator, dtype=torch.float32).to(dtype),)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr * max(0.0, 1 - epoch / self.config.n_epochs))
        for slot, n_learned in enumerate(self.config.snapshot_epochs):
            if n_learned == epoch:
                self.snapshots[slot].copy_(self.weight[: self.snapshots.shape[1]])

    @torch.no_grad()
    def fit_batch(
        self, x: Tensor, y: Tensor | None = None, *, epoch: Count = 0, step: Count = 0
    ) -> dict[str, Tensor]:
        """One update from inputs `x`, (batch, n_in) float; labels, epoch and step are not used.
        Measures nothing.
        """
        current = self.currents(x)
        ranked = current.topk(self.config.k, dim=1).indices
        first, kth = ranked[:, :1], ranked[:, -1:]
        g = torch.zeros_like(current).scatter_(1, first, 1.0).scatter_(1, kth, -self.config.delta)
        s = (g * current).sum(0)
        change = g.t() @ x - s[:, None] * self.weight
        largest = change.abs().max()
        self.weight.add_(self.lr_now * change / largest.clamp(min=PRECISION))
        self._show(current, first[:, 0], kth[:, 0], change, largest)
        return {}

    def _show(
        self, current: Tensor, first: Tensor, kth: Tensor, change: Tensor, largest: Tensor
    ) -> None:
        """Let `watch` see an update."""
        if self.watch is not None:
            seen = {"current": current, "first": first, "kth": kth, "change": change}
            seen |= {"normaliser": largest, "lr": self.lr_now}
            self.watch("update", 0, {name: [value] for name, value in seen.items()})

    def drive(self) -> Tensor:
        """A, (n_hidden, n_in)."""
        return self.weight.sign() * self.weight.abs() ** (self.config.p - 1)

    @torch.no_grad()
    def currents(self, x: Tensor) -> Tensor:
        """I, (n, n_hidden), of inputs `x`, (n, n_in)."""
        return x @ self.drive().t()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The hidden representation max(I, 0)^power, (n, n_hidden), of inputs `x`, (n, n_in); give
        unit vectors.

        Inputs of another length scale each row by length^power, which overflows easily.
        """
        hidden, drive = x.new_empty(len(x), len(self.weight)), self.drive()
        for rows, part in zip(hidden.split(N_PREDICT), x.split(N_PREDICT), strict=True):
            rows[:] = (part @ drive.t()).clamp_(min=0) ** self.config.power
        return hidden

    def diagnostics(self) -> dict[str, float]:
        """Mean and largest sum_j |W_ij|^p over the units; 1 once a unit has converged,
        dimensionless.
        """
        norm = self.weight.abs().pow_(self.config.p).sum(1)
        return {"norm_mean": norm.mean().item(), "norm_max": norm.max().item()}

    def useful_flops(self, batch_size: int) -> int:
        """Of the currents alone: the one product that cannot be avoided."""
        return 2 * batch_size * self.weight.numel()
