"""The model of a manifest file: experiments, their entries, and what the presets change."""

import itertools
from typing import Annotated, Any, Literal

import pydantic

from bioplaus.config import MOST_SEED
from bioplaus.experiments.manifest.parameters import merge, nested

PRESETS = ("smoke", "quick", "desk", "paper")

Key = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Seeds = Annotated[
    list[Annotated[int, pydantic.Field(ge=0, le=MOST_SEED)]], pydantic.Field(min_length=1)
]
Values = Annotated[list[Any], pydantic.Field(min_length=1)]
PresetName = Literal["smoke", "quick", "desk", "paper"]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Override(_Part):
    """What a preset changes."""

    parameters: dict[str, Any] = {}
    seeds: Seeds | None = None
    # how many of the seeds were added after results of the others had been looked at
    n_seeds_added: Annotated[int, pydantic.Field(ge=0)] | None = None
    # one run's wall time on one core of a laptop, as measured; for the forecast only
    seconds: float | None = None


class Entry(_Part):
    """One rule with its parameters; with a grid, one entry per grid point, numbered from 1, the
    last name fastest.

    In the grid the name of a table (`config`) takes tables, for parameters that change together.
    With a grid a list in `published` gives each point its own value; points after its end were not
    published.
    """

    # name in legends, of an entry with a grid one a point; default: the entry's key and number
    label: str | list[str] | None = None
    source: str | None = None  # table, section or script that the values are from
    parameters: dict[str, Any] = {}
    grid: dict[str, Values] = {}
    seeds: Seeds | None = None
    # parameter -> entry (of a grid: <entry>-<number>) whose run's id it is given
    needs: dict[str, str] = {}
    seconds: float | None = None
    # rows of Results/published that this entry answers, by column and value
    published: dict[str, Any] | None = None
    presets: dict[PresetName, Override | Literal[False]] = {}

    @property
    def points(self) -> list[dict[str, Any]]:
        """The Cartesian product of the grid, as nested parameters; one empty point without one."""
        return [
            merge(*(nested({name: value}) for name, value in zip(self.grid, values, strict=True)))
            for values in itertools.product(*self.grid.values())
        ]

    def names(self, key: str) -> list[str]:
        """The names of the entry's runs: its `key`, or numbered from 1 where it has a grid."""
        if not self.grid:
            return [key]
        return [f"{key}-{number}" for number in range(1, len(self.points) + 1)]

    def point_label(self, key: str, number: int) -> str:
        """The label of grid point `number`, from 1; of an entry without a grid, its label."""
        label = self.label or key
        if isinstance(label, list):
            return label[number - 1]
        return f"{label} {number}" if self.grid else label

    def point_published(self, number: int) -> dict[str, Any] | None:
        """The published rows of grid point `number`, from 1; None after the end of a list."""
        columns = self.published or {}
        lists = {column: values for column, values in columns.items() if isinstance(values, list)}
        if any(len(values) < number for values in lists.values()):
            return None
        own = {column: values[number - 1] for column, values in lists.items()}
        return self.published and {**self.published, **own}


class Experiment(_Part):
    """Runs that belong together in a figure or table."""

    title: str
    simulation: str
    source: str | None = None
    # of entries whose parameters name no rule: the simulation's default, said; no part of an id
    rule: str | None = None
    parameters: dict[str, Any] = {}
    seeds: Seeds
    seconds: float | None = None
    presets: dict[PresetName, Override | Literal[False]] = {}
    entries: dict[Key, Entry]

    @property
    def needs(self) -> dict[str, set[str]]:
        """The entries that each entry needs; those of a grid by their expanded names."""
        return {
            name: set(entry.needs.values())
            for key, entry in self.entries.items()
            for name in entry.names(key)
        }

    @property
    def keys(self) -> dict[str, str]:
        """The entries of runs, by their expanded names, and the keys they have in the manifest."""
        return {name: key for key, entry in self.entries.items() for name in entry.names(key)}


class Headline(_Part):
    """What the report's first page says of a paper."""

    sentence: str  # its main claim
    figure: str | None = None  # name of the figure that stands for it; default: the first drawn
    # which claim of its tables and figures decides; without them no verdict is shown
    experiment: Key | None = None
    entry: str | None = None
    metric: str | None = None  # default: the entry's first primary one


class Manifest(_Part):
    """Everything that one paper's figures and tables need."""

    paper: Key
    title: str
    citation: str | None = None
    claim: Headline | None = None
    # notebook -> the experiments whose runs it shows, after which it is drawn; default: all
    notebooks: dict[str, list[Key]] = {}
    experiments: dict[Key, Experiment]
