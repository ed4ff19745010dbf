"""Simple line drawing: a cue at the first step says which of a few straight lines to draw from then
on, blindly.

Line 0 stays at the origin; lines 1 .. P-1 end on a circle of radius 10, 10 (sin a_j, cos a_j), a_j
= 2 pi (j-1)/(P-1). The data are generated: every epoch draws new cues (and noise), and so does
every validation.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bioplaus import config, metrics, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec

RADIUS = 10.0  # length of a line, in units of the drawing


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Sizes and noise. Defaults: the published task."""

    n_points: int = 7  # number of lines and of cues, P
    n_steps: int = 10  # time steps, T, both ends of a line included
    noise: float = 0.0  # standard deviation of the input after the cue, in training and validation
    noise_test: float = 0.0  # the same in the test
    n_train: int = 1000  # drawings per epoch, those of the validation among them
    n_test: int = 10000  # drawings in the test
    validation: float = 0.2  # fraction of n_train that validates
    # of the test's draws; training and validation draw from the generator given to `batches`
    seed: int = 0

    def __post_init__(self) -> None:
        self.check("n_points", low=3)
        self.check("n_steps", low=2)
        for name in ("noise", "noise_test"):
            self.check(name, low=0)
        for name in ("n_train", "n_test"):
            self.check(name, low=1)
        self.check("validation", low=0, high=1, open_low=True, open_high=True)
        config.check_seed(self.seed)
        if not 0 < self.n_validation < self.n_train:
            raise BioplausError(
                f"validation is {self.validation}, which leaves {self.n_validation} of"
                f" {self.n_train} drawings to validate with, but training and validation need at"
                " least one each."
            )

    @property
    def n_validation(self) -> int:
        """Drawings in a validation."""
        return round(self.validation * self.n_train)


def endpoints(n_points: int) -> np.ndarray:
    """Where the lines end, (n_points, 2) float64, units of the drawing; line 0 ends where it
    starts.
    """
    angle = 2 * np.pi * np.arange(n_points - 1) / (n_points - 1)
    return np.concatenate(
        [np.zeros((1, 2)), RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1)]
    )


def lines(n_points: int, n_steps: int) -> np.ndarray:
    """All lines, (n_points, n_steps, 2) float64: y_t = t / (T - 1) end, both ends included."""
    return endpoints(n_points)[:, None] * np.linspace(0, 1, n_steps)[:, None]


def cues(n_points: int) -> np.ndarray:
    """All cues, ascending, (n_points,) int64: the integers around 0, without the lowest one if
    n_points is even.
    """
    half = n_points // 2
    return np.arange(-half + (n_points % 2 == 0), half + 1)


def line_of(cue: np.ndarray, n_points: int) -> np.ndarray:
    """Index of the line that each cue asks for: 0 for 0, and P-1, P-2, ..., 1 for the other cues in
    ascending order.
    """
    rank = cue - cues(n_points)[0] - (cue > 0)  # among the cues other than 0
    return np.where(cue == 0, 0, n_points - 1 - rank)


def draw(
    random: np.random.RandomState, n: int, n_points: int, n_steps: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """A batch: cues drawn first, then the noise, in the published order.

    One integer is drawn for every step although only the first is used; noise is drawn for the
    steps after it, and only if there is any.

    Returns
    -------
    Inputs (n, n_steps, 1) and targets (n, n_steps, 2), float64; input 0.1 cue at the first step,
    then noise N(0, 1) times `noise`, dimensionless.
    """
    allowed = cues(n_points)
    cue = random.randint(allowed[0], allowed[-1] + 1, size=(n, n_steps, 1))[:, 0, 0]
    normal = random.normal(size=(n, n_steps - 1, 1)) if noise > 0 else np.zeros((n, n_steps - 1, 1))
    return inputs(cue, normal * noise), lines(n_points, n_steps)[line_of(cue, n_points)]


def inputs(cue: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Inputs (n, n_steps, 1) from cues (n,) and what follows them, (n, n_steps - 1, 1)."""
    return np.concatenate([0.1 * cue[:, None, None], after], axis=1)


def published_streams(
    seed: int,
) -> tuple[np.random.RandomState, np.random.RandomState, np.random.RandomState]:
    """The published code's random streams for training, validation and test: each draws on from
    epoch to epoch.
    """
    random = np.random.RandomState(seed)
    train, validation, test = (np.random.RandomState(random.randint(65535)) for _ in range(3))
    return train, validation, test


def spec(config: Config | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives for the same arguments."""
    return _spec(tasks.configure(Config, config, values, "linedraw"))


def load(
    config: Config | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **values: Any,
) -> "LineDrawing":
    """The task, on a device.

    Parameters
    ----------
    config, values : fields of `Config`.
    """
    chosen = _device.pick(device) if isinstance(device, str) else device
    return LineDrawing(tasks.configure(Config, config, values, "linedraw"), chosen, dtype)


def _spec(settings: Config) -> Spec:
    return Spec(
        name="linedraw",
        kind="drawing",
        n_in=1,
        n_out=2,
        n_steps=settings.n_steps,
        n_train=settings.n_train - settings.n_validation,
    )


class Drawings(NamedTuple):
    """What is drawn of a split."""

    n: int  # drawings
    noise: float  # standard deviation of the input after the cue


class LineDrawing(tasks.Task[Config, Drawings]):
    """Lines to draw.

    Attributes
    ----------
    splits : `Drawings` by "train", "validation" and "test". Training and validation are drawn anew
        in every epoch, the test from the stream (seed, "test"), always the same.
    """

    recorded_names = {"validation": "val"}

    def __init__(self, settings: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.spec = settings, _spec(settings)
        self._device, self._dtype = device, dtype
        self.splits = {
            "train": Drawings(self.n_train, settings.noise),
            "validation": Drawings(settings.n_validation, settings.noise),
            "test": Drawings(settings.n_test, settings.noise_test),
        }
        self.monitored = ("validation",)
        test_seed = torch.randint(2**32, (1,), generator=_device.generator(settings.seed, "test"))
        # those of training and validation come with every epoch, so a resumed run draws the same
        self._seeds = {"train": 0, "validation": 0, "test": int(test_seed.item())}

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the settings that the data follow from."""
        return hashlib.sha256(f"linedraw {json.dumps(self.config.to_dict())}".encode()).hexdigest()

    def n_samples(self, split: str) -> int:
        return self.splits[split].n

    @property
    def n_train(self) -> int:
        """Drawings to learn from in an epoch."""
        return self.config.n_train - self.config.n_validation

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of new drawings: the batches (x, y) themselves.

        Parameters
        ----------
        generator : CPU generator; two integers are drawn from it, which seed this epoch's training
            and validation data.
        """
        seeds = torch.randint(2**32, (2,), generator=generator).tolist()
        self._seeds["train"], self._seeds["validation"] = seeds
        random = np.random.RandomState(self._seeds["train"])
        for start in range(0, self.n_train, batch_size):
            n = min(batch_size, self.n_train - start)
            yield self._batch(random, n, self.config.noise)

    def measure(self, rule: Any, split: str) -> dict[str, Tensor]:
        """ "mse", the mean squared distance over all steps, supervised or not; in the test also
        "dysmetria".
        """
        x, y = self._batch(np.random.RandomState(self._seeds[split]), *self.splits[split])
        drawn = rule.predict(x)
        measured = {"mse": metrics.squared_distance(drawn, y)}
        if split == "test":
            measured["dysmetria"] = metrics.dysmetria(drawn, y)
        return measured

    @torch.no_grad()
    def outputs(self, rule: Any) -> dict[str, np.ndarray]:
        """What the network draws for each cue, without noise.

        Returns
        -------
        label : (P,) cues, ascending. drawn, target : (P, T, 2), units of the drawing.
        """
        cue, c = cues(self.config.n_points), self.config
        x = inputs(cue, np.zeros((len(cue), c.n_steps - 1, 1)))
        drawn = rule.predict(torch.from_numpy(x).to(self._device, self._dtype))
        target = lines(c.n_points, c.n_steps)[line_of(cue, c.n_points)]
        return {"label": cue, "drawn": drawn.double().cpu().numpy(), "target": target}

    def _batch(self, random: np.random.RandomState, n: int, noise: float) -> tuple[Tensor, Tensor]:
        arrays = draw(random, n, self.config.n_points, self.config.n_steps, noise)
        x, y = (torch.from_numpy(array).to(self._device, self._dtype) for array in arrays)
        return x, y
