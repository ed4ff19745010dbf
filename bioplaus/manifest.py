"""Manifests: which simulations a paper consists of, and their expansion into runs with stable ids.

`Simulations/manifests/<paper>.yaml` lists experiments; an experiment lists entries (one rule with its published
parameters each), seeds, and what the presets change. Parameters are merged in this order, later ones winning:

    experiment < entry < grid point < experiment's preset < entry's preset < --set

Nested tables (a rule's `config`) are merged name by name, everything else is replaced. The preset `paper` is the
manifest as it stands; an experiment or entry runs at another preset only if it names it (an entry inherits its
experiment's presets and leaves one with `false`).

An entry may need others of its experiment, with the same seed: `needs: {checkpoints.left: fine}` puts the id of the run
of entry `fine` into the parameter `checkpoints.left`. The simulation finds that run's files in the folder of that name
beside its own. An id so depends on the ids of everything a run is built from.
"""

import dataclasses
import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from ruamel.yaml import YAML, YAMLError

from bioplaus import results, simulation
from bioplaus.errors import BioplausError, unknown

PRESETS = ("smoke", "quick", "desk", "paper")
_MAX_NODES = 100_000  # of a manifest with its aliases followed: a bomb of aliases stops here

Key = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
PresetName = Literal["smoke", "quick", "desk", "paper"]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Override(_Part):
    """What a preset changes."""

    parameters: dict[str, Any] = {}
    seeds: list[int] | None = None
    seconds: float | None = None  # one run's wall time on one core of a laptop, as measured; for the forecast only


class Entry(_Part):
    """One rule with its parameters; with a grid, one entry per grid point, numbered from 1, the last name fastest.

    In the grid the name of a table (`config`) takes tables, for parameters that change together. With a grid a list in
    `published` gives each point its own value; points after its end were not published.
    """

    label: str | list[str] | None = None  # name in legends, of a grid one a point; default: the entry's key and number
    source: str | None = None  # table, section or script that the values are from
    parameters: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    seeds: list[int] | None = None
    needs: dict[str, str] = {}  # parameter -> entry (of a grid: <entry>-<number>) whose run's id it is given
    seconds: float | None = None
    published: dict[str, Any] | None = None  # rows of Results/published that this entry answers, by column and value
    presets: dict[PresetName, Override | Literal[False]] = {}


class Experiment(_Part):
    """Runs that belong together in a figure or table."""

    title: str
    simulation: str
    source: str | None = None
    parameters: dict[str, Any] = {}
    seeds: list[int]
    seconds: float | None = None
    presets: dict[PresetName, Override | Literal[False]] = {}
    entries: dict[Key, Entry]

    @property
    def needs(self) -> dict[str, set[str]]:
        """The entries that each entry needs; those of a grid by their expanded names."""
        names = [(name, entry) for key, entry in self.entries.items() for name in _names(key, entry)]
        return {name: set(entry.needs.values()) for name, entry in names}

    @property
    def keys(self) -> dict[str, str]:
        """The entries of runs, by their expanded names, and the keys they have in the manifest."""
        return {name: key for key, entry in self.entries.items() for name in _names(key, entry)}


class Manifest(_Part):
    """Everything that one paper's figures and tables need."""

    paper: Key
    title: str
    citation: str | None = None
    experiments: dict[Key, Experiment]


@dataclass(frozen=True)
class Run:
    """One execution of a simulation notebook."""

    paper: str
    experiment: str
    entry: str
    label: str
    preset: str
    simulation: str
    seed: int
    parameters: dict[str, Any]  # the notebook's parameters, seed included; without `folder`
    published: dict[str, Any] | None
    seconds: float | None  # forecast, on one core
    needs: dict[str, str] = dataclasses.field(default_factory=dict)  # parameter -> id of a run of the same experiment

    @property
    def id(self) -> str:
        """`<rule>-<dataset>-s<seed>-<hash8>`; the hash is over simulation and parameters, the same everywhere."""
        canonical = json.dumps([self.simulation, self.parameters], sort_keys=True, separators=(",", ":"))
        words = [
            self.parameters.get("rule", self.entry),
            Path(str(self.parameters.get("dataset", self.simulation))).stem,
        ]
        clean = "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", str(word))[:40] for word in words)
        return f"{clean}-s{self.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    @property
    def key(self) -> str:
        """`<paper>/<experiment>/<entry>/<id>`: what `--only` is matched against."""
        return f"{self.paper}/{self.experiment}/{self.entry}/{self.id}"

    @property
    def experiment_folder(self) -> Path:
        """Where this run's experiment keeps its results."""
        return results.root() / self.preset / self.paper / self.experiment

    @property
    def folder(self) -> Path:
        """Where this run keeps its result, record, notebook and checkpoint."""
        return self.experiment_folder / self.id

    @property
    def needed_folders(self) -> list[Path]:
        """The folders of the runs that this one needs."""
        return [self.experiment_folder / run_id for run_id in self.needs.values()]

    def check(self) -> None:
        """Raise `BioplausError`, naming manifest and entry, unless the simulation can run with these parameters."""
        try:
            simulation.load(self.simulation).check({**self.parameters, "folder": str(self.folder)})
        except BioplausError as error:
            place = f"{self.paper}.yaml, {self.experiment}/{self.entry} at preset {self.preset}"
            raise type(error)(f"{place}: {error}") from None


def papers() -> list[str]:
    """The papers that have a manifest, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load(paper: str) -> Manifest:
    """The manifest of `paper`, by its key.

    Raises
    ------
    BioplausError
        For an unknown paper, a file that is not YAML, a name given twice, or a wrong or unknown key; the file, the
        place and what was allowed are named.
    """
    if paper not in papers():
        raise unknown("paper", paper, papers())
    path = _folder() / f"{paper}.yaml"
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Manifest:
    """Read and check one manifest file (YAML 1.2: `1e-4` is a number), again only after it `changed`."""
    yaml = YAML(typ="safe", pure=True)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        what = (getattr(error, "problem", None) or type(error).__name__).splitlines()[0]
        raise BioplausError(f"{path.name}{place} is not valid YAML: {what}.") from None
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from None
    if sum(1 for _ in itertools.islice(_nodes(content), _MAX_NODES)) == _MAX_NODES:
        raise BioplausError(f"{path.name} has more than {_MAX_NODES:,} values once its aliases are followed.")
    try:
        found = Manifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise _sentence(error, path.name) from None
    if found.paper != path.stem:
        raise BioplausError(f"{path.name} says paper: {found.paper}, but its file name says {path.stem}.")
    for name, experiment in found.experiments.items():
        _check_needs(experiment.needs, f"{path.name}, {name}")
        for key, entry in experiment.entries.items():
            _check_lists(entry, f"{path.name}, {name}/{key}")
    return found


def runs(
    preset: str,
    papers: Iterable[str] | None = None,
    only: str | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    experiment: str | None = None,
) -> list[Run]:
    """Every run of a preset, in manifest order.

    Parameters
    ----------
    papers : keys; None means all that have a manifest.
    only : a run id, or a glob over `<paper>/<experiment>/<entry>/<id>` or any consecutive part of it; the runs that the
        matching ones need come with them.
    seeds : in place of the manifest's.
    overrides : parameters by dotted name ("n_epochs", "config.lr_neural") that win over the manifest's.
    experiment : expand this one only, by its key; a large manifest has thousands of runs.

    Raises
    ------
    BioplausError
        For an unknown preset or paper, and for an `only` that matches nothing.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    seeds = None if seeds is None else list(seeds)
    chosen = list(papers) if papers is not None else globals()["papers"]()
    found = []
    for paper in chosen:
        described = load(paper)
        if experiment is not None:
            kept = {key: one for key, one in described.experiments.items() if key == experiment}
            described = described.model_copy(update={"experiments": kept})
        found += _expand(described, preset, seeds, dict(overrides or {}))
    if only is None:
        return found
    matching = [run for run in found if _matches(run, only)]
    if not matching:
        known = {part for run in found for part in (run.experiment, run.entry, f"{run.experiment}/{run.entry}")}
        raise unknown(f"experiment, entry or run at preset {preset}", only, known)
    by_folder = {run.folder: run for run in found}
    wanted, todo = {run.key for run in matching}, matching
    while todo:
        needed = [by_folder[folder] for run in todo for folder in run.needed_folders]
        todo = [run for run in needed if run.key not in wanted]
        wanted |= {run.key for run in todo}
    return [run for run in found if run.key in wanted]


def _folder() -> Path:
    return results.project_root() / "Simulations" / "manifests"


def _nodes(value: Any) -> Iterator[None]:
    yield None
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(item)


def _matches(run: Run, pattern: str) -> bool:
    parts = run.key.split("/")
    spans = ("/".join(parts[i:j]) for i in range(4) for j in range(i + 1, 5))
    return any(fnmatch.fnmatchcase(span, pattern) for span in spans)


def _expand(found: Manifest, preset: str, seeds: list[int] | None, overrides: dict[str, Any]) -> Iterator[Run]:
    """Every run at a preset, in manifest order, with the ids of the runs it needs among its parameters."""
    plain = list(_expand_plain(found, preset, seeds, overrides))
    by_name = {(run.experiment, run.entry, run.seed): run for run in plain}
    finished: dict[tuple[str, str, int], Run] = {}

    def finish(run: Run) -> Run:
        name = (run.experiment, run.entry, run.seed)
        if name not in finished:
            ids = {}
            for parameter, entry in run.needs.items():
                needed = by_name.get((run.experiment, entry, run.seed))
                if needed is None:
                    raise BioplausError(
                        f"{run.paper}.yaml, {run.experiment}/{run.entry} needs {entry} with seed {run.seed}, which "
                        f"preset {preset} does not run."
                    )
                ids[parameter] = finish(needed).id
            parameters = _merge(run.parameters, _nested(ids))
            finished[name] = dataclasses.replace(run, parameters=parameters, needs=ids)
        return finished[name]

    yield from map(finish, plain)


def _check_needs(needs: Mapping[str, set[str]], place: str) -> None:
    """Raise unless every entry that is needed exists and none needs itself, directly or not."""
    for entry, wanted in needs.items():
        for name in sorted(wanted - needs.keys()):
            raise unknown("entry", name, needs, f"{place}/{entry}, needs")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise BioplausError(f"{place}: entries need one another in a circle: {circle}.") from None


def _check_lists(entry: Entry, place: str) -> None:
    """Raise where a list that goes along the grid does not fit it."""
    n_points = len(_points(entry.grid)) if entry.grid else 0
    if isinstance(entry.label, list) and len(entry.label) != n_points:
        raise BioplausError(f"{place}: label has {len(entry.label)} names, but the grid has {n_points} points.")
    for column, values in (entry.published or {}).items():
        if isinstance(values, list) and not 0 < len(values) <= n_points:
            raise BioplausError(
                f"{place}, published/{column} has {len(values)} values, but must have 1 to {n_points}, the number of "
                "points of the grid."
            )


def _names(key: str, entry: Entry) -> list[str]:
    """The names of an entry's runs: its key, or numbered from 1 where it has a grid."""
    return [f"{key}-{number}" for number in range(1, len(_points(entry.grid)) + 1)] if entry.grid else [key]


def _expand_plain(found: Manifest, preset: str, seeds: list[int] | None, overrides: dict[str, Any]) -> Iterator[Run]:
    for name, experiment in found.experiments.items():
        of_experiment = experiment.presets.get(preset, Override() if preset == "paper" else False)
        for key, entry in experiment.entries.items():
            of_entry = entry.presets.get(preset, Override() if of_experiment else False)
            if not of_entry:
                continue
            changes = of_experiment or Override()
            chosen = next(
                s for s in (seeds, of_entry.seeds, changes.seeds, entry.seeds, experiment.seeds) if s is not None
            )
            forecast = next(
                (s for s in (of_entry.seconds, changes.seconds, entry.seconds, experiment.seconds) if s is not None),
                None,
            )
            named_points = zip(_names(key, entry), _points(entry.grid), strict=True)
            for number, (entry_name, point) in enumerate(named_points, start=1):
                parameters = _merge(
                    experiment.parameters,
                    entry.parameters,
                    point,
                    changes.parameters,
                    of_entry.parameters,
                    _nested(overrides),
                )
                for seed in chosen:
                    yield Run(
                        paper=found.paper,
                        experiment=name,
                        entry=entry_name,
                        label=_label(entry.label or key, number, bool(entry.grid)),
                        preset=preset,
                        simulation=experiment.simulation,
                        seed=seed,
                        parameters=_merge(parameters, {"seed": seed}),
                        published=_published_of(entry.published, number),
                        seconds=forecast,
                        needs=entry.needs,  # names of entries, until `_expand` puts ids in their place
                    )


def _points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The Cartesian product of a grid, as nested parameters; one empty point for an empty grid."""
    return [
        _merge(*(_nested({name: value}) for name, value in zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]


def _label(label: str | list[str], number: int, in_grid: bool) -> str:
    if isinstance(label, list):
        return label[number - 1]
    return f"{label} {number}" if in_grid else label


def _published_of(published: dict[str, Any] | None, number: int) -> dict[str, Any] | None:
    """The published rows of one grid point; None for a point after the end of a list."""
    lists = {column: values for column, values in (published or {}).items() if isinstance(values, list)}
    if any(len(values) < number for values in lists.values()):
        return None
    return published and {**published, **{column: values[number - 1] for column, values in lists.items()}}


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"config.lr": 1} becomes {"config": {"lr": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _merge(*tables: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
            merged[name] = _merge(merged[name], value) if both else deepcopy(value)
    return merged


def _sentence(error: pydantic.ValidationError, file: str) -> BioplausError:
    """The first of pydantic's errors as one sentence; an unknown key gets the nearest allowed one."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if part not in ("Override", "literal[False]")]
    if first["type"] == "extra_forbidden":
        return unknown("key", place[-1], _allowed(place[:-1]), f"{file}, {'/'.join(place[:-1]) or 'top level'}")
    if first["type"] == "literal_error" and "[key]" in place:
        return unknown("preset", first["input"], PRESETS, f"{file}, {'/'.join(place[:-2])}")
    return BioplausError(f"{file}, {'/'.join(place) or 'top level'}: {first['msg']}, not {first.get('input')!r}.")


def _allowed(place: list[str]) -> Iterable[str]:
    """The keys allowed at a place in a manifest, which alternates between keys and names."""
    if "presets" in place:
        return Override.model_fields
    return {0: Manifest, 2: Experiment, 4: Entry}.get(len(place), Manifest).model_fields
