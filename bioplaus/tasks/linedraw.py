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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioplaus import config, metrics
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
    seed: int = (
        0  # of the test's draws; training and validation draw from the generator given to `batches`
    )

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
    place = cue - cues(n_points)[0] - (cue > 0)  # among the cues other than 0
    return np.where(cue == 0, 0, n_points - 1 - place)


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
    return tuple(np.random.RandomState(random.randint(65535)) for _ in range(3))


def spec(**values: Any) -> Spec:
    """What a rule must know of the task `load(**values)`; the values are checked."""
    return _spec(Config.from_dict(values, kind="parameter of linedraw:"))


def load(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **values: Any
) -> "LineDrawing":
    """The task, on a device.

    Parameters
    ----------
    values : fields of `Config`.
    """
    return LineDrawing(
        Config.from_dict(values, kind="parameter of linedraw:"), torch.device(device), dtype
    )


def _spec(settings: Config) -> Spec:
    return Spec(name="linedraw", kind="drawing", n_in=1, n_out=2, n_steps=settings.n_steps)


class LineDrawing:
    """Lines to draw; keeps the contract of `tasks.Task`.

    Attributes
    ----------
    spec : `Spec`.
    config : `Config`.
    fingerprint : sha256 of the settings that the data follow from.
    """

    def __init__(self, settings: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.spec = settings, _spec(settings)
        self._place = {"device": device, "dtype": dtype}
        self._validation_seed = (
            0  # drawn anew at the start of every epoch, so a resumed run validates on the same data
        )
        self.fingerprint = hashlib.sha256(
            f"linedraw {json.dumps(settings.to_dict())}".encode()
        ).hexdigest()

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch, the last partial one included."""
        return -(-(self.config.n_train - self.config.n_validation) // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of new drawings (x, y).

        Parameters
        ----------
        generator : CPU generator; two integers are drawn from it, which seed this epoch's training
            and validation data.
        """
        seed, self._validation_seed = torch.randint(2**32, (2,), generator=generator).tolist()
        random = np.random.RandomState(seed)
        left = self.config.n_train - self.config.n_validation
        while left > 0:
            yield self._batch(random, min(batch_size, left), self.config.noise)
            left -= batch_size

    @torch.no_grad()
    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """ "val_mse": mean squared distance over all steps, supervised or not, on this epoch's
        validation drawings.
        """
        x, y = self._batch(
            np.random.RandomState(self._validation_seed),
            self.config.n_validation,
            self.config.noise,
        )
        return {"val_mse": metrics.squared_distance(rule.predict(x), y).item()}

    @torch.no_grad()
    def evaluate_test(self, rule: torch.nn.Module) -> dict[str, float]:
        """ "test_mse" and "test_dysmetria" on the test drawings; to be asked once, after
        training.
        """
        x, y = self._batch(self._test_random(), self.config.n_test, self.config.noise_test)
        drawn = rule.predict(x)
        found = {
            "test_mse": metrics.squared_distance(drawn, y),
            "test_dysmetria": metrics.dysmetria(drawn, y),
        }
        return {name: value.item() for name, value in found.items()}

    @torch.no_grad()
    def outputs(self, rule: torch.nn.Module) -> dict[str, np.ndarray]:
        """What the network draws for each cue, without noise.

        Returns
        -------
        label : (P,) cues, ascending. drawn, target : (P, T, 2), units of the drawing.
        """
        cue, c = cues(self.config.n_points), self.config
        x = inputs(cue, np.zeros((len(cue), c.n_steps - 1, 1)))
        drawn = rule.predict(torch.from_numpy(x).to(**self._place))
        target = lines(c.n_points, c.n_steps)[line_of(cue, c.n_points)]
        return {"label": cue, "drawn": drawn.double().cpu().numpy(), "target": target}

    def _batch(self, random: np.random.RandomState, n: int, noise: float) -> tuple[Tensor, Tensor]:
        arrays = draw(random, n, self.config.n_points, self.config.n_steps, noise)
        return tuple(torch.from_numpy(array).to(**self._place) for array in arrays)

    def _test_random(self) -> np.random.RandomState:
        seed = torch.randint(
            2**32, (1,), generator=_device.generator(self.config.seed, "test")
        ).item()
        return np.random.RandomState(seed)
