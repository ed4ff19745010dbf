"""Competing hidden units: features learned without labels by a local Hebbian rule with global
inhibition.

The unit that a sample drives most moves towards it, the k-th most driven moves away (Krotov and
Hopfield 2019). With v_b the samples of a batch, W the weights, and I the currents:

    A    = sign(W) |W|^(p-1)                            for p = 2, A = W
    I_ib = sum_j A_ij v_bj
    g_ib = 1 where I_ib is the largest of sample b, -delta where it is the k-th largest, else 0
    D_ij = sum_b g_ib v_bj - s_i W_ij,                  s_i = sum_b g_ib I_ib
    W   <- W + lr D / max|D|                            lr = lr0 (1 - epoch / n_epochs)

so a row that wins is driven to sum_j |W_ij|^p = 1, and the largest change of a weight is lr at
every update. What is passed on to a readout is max(I, 0)^power.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bioplaus.config import Config as BaseConfig
from bioplaus.errors import BioplausError
from bioplaus.rules._base import BenchmarkCase, LearningRule, sparse_inputs
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

Watch = Callable[[dict[str, Tensor]], None]


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
    snapshot_epochs: tuple[
        int, ...
    ] = ()  # keep weights after so many epochs, below n_epochs (0: the initial ones)
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
    largest entry; one step of the rows that won or were k-th in the batch. No other row moves.

    Attributes
    ----------
    weight : (n_hidden, n_in) float, W.
    lr_now : 0-d buffer, the rate of the current epoch; on the device, so that a captured step
        follows it.
    snapshots : (n_snapshots, n_units_kept, n_in) buffer, weights after the epochs of
        `snapshot_epochs`.
    watch : None, or called before every update with a dict of current (batch, n_hidden), first and
        kth (batch,) int64, change (n_hidden, n_in), normaliser (0-d, before its floor), lr (0-d).
        Training behaves the same with it.

    References
    ----------
    Krotov and Hopfield, Unsupervised learning by competing hidden units, PNAS 116(16), 2019. The
    authors' notebook: github.com/DimaKrotov/Biological_Learning.

    Deviations
    ----------
    The published loops sort all units for every sample and multiply a mostly empty matrix g with
    the batch; here the k largest are selected and only their rows are gathered, which gives the
    same numbers but for rounding. Units with exactly equal currents are ranked as the selection
    happens to find them, there as here. 1 <= p < 2 is allowed although the paper uses p >= 2: the
    update is well defined there. On a GPU the sums over a batch are taken in no fixed order, so the
    last bits of two runs differ.
    """

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
        self.watch: Watch | None = None
        self._scratch: dict[str, Tensor] = {}
        self._drive_version = -1

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
        """Inputs alone, (n, n_in)."""
        return (sparse_inputs(generator, dtype, n, spec.n_in),)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr * max(0.0, 1 - epoch / self.config.n_epochs))
        self._drive_version = -1
        for slot, n_learned in enumerate(self.config.snapshot_epochs):
            if n_learned == epoch:
                self.snapshots[slot].copy_(self.weight[: self.snapshots.shape[1]])

    @torch.no_grad()
    def fit_batch(
        self, x: Tensor, y: Tensor | None = None, *, epoch: int = 0, step: int = 0
    ) -> dict[str, Tensor]:
        """One update from inputs `x`, (batch, n_in) float; labels, epoch and step are not used.
        Measures nothing.
        """
        current = torch.mm(
            x, self._drive().t(), out=self._buffer("current", len(x), len(self.weight))
        )
        (top, low), (first, kth) = ranked(current, self.config.k)
        pull = self._buffer("pull", len(self.weight)).zero_()  # s
        pull.index_add_(0, first, top).index_add_(0, kth, low, alpha=-self.config.delta)
        if self.watch is not None:
            change = self._change_of_all(x, first, kth, pull)
            self.watch(
                {
                    "current": current,
                    "first": first,
                    "kth": kth,
                    "change": change,
                    "lr": self.lr_now,
                }
                | {"normaliser": largest(change)}
            )
        if 2 * len(x) < len(self.weight):
            self._move_winners(x, first, kth, pull)
        else:
            change = self._change_of_all(x, first, kth, pull)
            self.weight.addcmul_(change, self.lr_now / largest(change).clamp_(min=PRECISION))
        return {}

    def _change_of_all(self, x: Tensor, first: Tensor, kth: Tensor, pull: Tensor) -> Tensor:
        """D, (n_hidden, n_in); of rows that no sample chose it is 0."""
        change = torch.mul(
            self.weight, -pull[:, None], out=self._buffer("change", *self.weight.shape)
        )
        return change.index_add_(0, first, x).index_add_(0, kth, x, alpha=-self.config.delta)

    def _move_winners(self, x: Tensor, first: Tensor, kth: Tensor, pull: Tensor) -> None:
        """The same step for a batch that is small beside the layer: only the rows chosen by its
        samples are touched.

        Each sample has two slots, for its first and its k-th unit. All slots of one unit are summed
        in the first of them, so shapes do not depend on who wins, and the others add 0.
        """
        n = len(x)
        unit = torch.cat([first, kth])
        slot = torch.arange(2 * n, device=x.device)
        owner = (
            self._index("owner", len(self.weight))
            .fill_(2 * n)
            .scatter_reduce_(0, unit, slot, "amin")[unit]
        )
        rows = torch.index_select(self.weight, 0, unit, out=self._buffer("rows", 2 * n, x.shape[1]))
        change = torch.mul(
            rows,
            (pull[unit] * (owner == slot)).neg_()[:, None],
            out=self._buffer("slots", *rows.shape),
        )
        change.index_add_(0, owner[:n], x).index_add_(0, owner[n:], x, alpha=-self.config.delta)
        change.mul_(self.lr_now / largest(change).clamp_(min=PRECISION))
        self.weight.index_add_(0, unit, change)
        if self.config.p != 2:  # only these rows of A are out of date
            torch.index_select(self.weight, 0, unit, out=rows)
            self._scratch["drive"].index_copy_(0, unit, signed_power(rows, self.config.p, change))
            self._drive_version = self.weight._version

    def _drive(self, *, is_fresh: bool = False) -> Tensor:
        """A, (n_hidden, n_in); made anew if `is_fresh`, else only where the weights were changed
        since.
        """
        if self.config.p == 2:
            return self.weight
        drive = self._buffer("drive", *self.weight.shape)
        if is_fresh or self._drive_version != self.weight._version:
            signed_power(self.weight, self.config.p, drive)
            self._drive_version = self.weight._version
        return drive

    @torch.no_grad()
    def currents(self, x: Tensor) -> Tensor:
        """I, (n, n_hidden), of inputs `x`, (n, n_in)."""
        return x @ self._drive(is_fresh=True).t()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The hidden representation max(I, 0)^power, (n, n_hidden), of inputs `x`, (n, n_in); give
        unit vectors.

        Inputs of another length scale each row by length^power, which overflows easily.
        """
        out, drive = x.new_empty(len(x), len(self.weight)), self._drive(is_fresh=True)
        for rows, part in zip(out.split(N_PREDICT), x.split(N_PREDICT), strict=True):
            torch.mm(part, drive.t(), out=rows).clamp_(min=0).pow_(self.config.power)
        return out

    def diagnostics(self) -> dict[str, float]:
        """Mean and largest sum_j |W_ij|^p over the units; 1 once a unit has converged,
        dimensionless.
        """
        norm = self.weight.abs().pow_(self.config.p).sum(1)
        return {"norm_mean": norm.mean().item(), "norm_max": norm.max().item()}

    def useful_flops(self, batch_size: int) -> int:
        """Of the currents alone: the one product that cannot be avoided."""
        return 2 * batch_size * self.weight.numel()

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """A scratch tensor of the weights' dtype and device, kept from batch to batch."""
        if name not in self._scratch or self._scratch[name].shape != shape:
            self._scratch[name] = self.weight.new_zeros(shape)
            self._drive_version = -1 if name == "drive" else self._drive_version
        return self._scratch[name]

    def _index(self, name: str, n: int) -> Tensor:
        if name not in self._scratch:
            self._scratch[name] = torch.zeros(n, dtype=torch.int64, device=self.weight.device)
        return self._scratch[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rule":
        self._scratch.clear()  # of another device or dtype
        self._drive_version = -1
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_scratch": {}, "_drive_version": -1, "watch": None}


def signed_power(w: Tensor, p: float, out: Tensor) -> Tensor:
    """sign(w) |w|^(p-1), written to `out`; sign(w) for p = 1."""
    torch.abs(w, out=out)
    if p == 3:
        return out.mul_(w)
    return out.pow_(p - 1).mul_(w.sign())


def ranked(current: Tensor, k: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Largest and k-th largest current of each sample, and the units that have them.

    Parameters
    ----------
    current : (batch, n_hidden), float.

    Returns
    -------
    (largest, k-th largest), each (batch,) float; (unit of the largest, unit of the k-th), each
    (batch,) int64.
    """
    if current.is_cpu and k <= 3:  # numpy's argmax takes a fifth of the time of torch's selection
        picked = []
        for _ in range(k):
            unit = torch.from_numpy(current.numpy().argmax(1))[:, None]
            picked.append((current.gather(1, unit), unit))
            current.scatter_(1, unit, -torch.inf)  # out of the race for the next rank
        for value, unit in picked:
            current.scatter_(1, unit, value)
        value, unit = (torch.cat(parts, dim=1) for parts in zip(*picked, strict=True))
    else:
        value, unit = current.topk(k, dim=1)
    return (value[:, 0], value[:, -1]), (unit[:, 0], unit[:, -1])


def largest(change: Tensor) -> Tensor:
    """max |change|, 0-d; by `aminmax`, which is five times as fast as an infinity norm."""
    low, high = torch.aminmax(change)
    return torch.maximum(high, -low)
