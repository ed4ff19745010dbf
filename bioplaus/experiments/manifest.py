"""Manifests: which simulations a paper consists of, and their expansion into runs with stable ids.

`Simulations/manifests/<paper>.yaml` lists experiments; an experiment lists entries (one rule with
its published parameters each), seeds, and what the presets change. Parameters are merged in this
order, later ones winning:

    experiment < entry < grid point < experiment's preset < entry's preset < --set

Nested tables (a rule's `config`) are merged name by name, everything else is replaced. The preset
`paper` is the manifest as it stands; an experiment or entry runs at another preset only if it names
it (an entry inherits its experiment's presets and leaves one with `false`).

What decides how a run is executed and not what it is (`device`, `n_threads`) is no parameter of a
manifest and no part of an id, nor are `seed` and `folder`: options of the command line give them.

An entry may need others of its experiment, with the same seed: `needs: {checkpoints.left: fine}`
puts the id of the run of entry `fine` into the parameter `checkpoints.left`. The simulation finds
that run's files in the folder of that name beside its own. An id so depends on the ids of
everything a run is built from.
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
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from ruamel.yaml import YAML, YAMLError

from bioplaus import paths
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments import simulation

PRESETS = ("smoke", "quick", "desk", "paper")
_MAX_NODES = 100_000  # of a manifest with its aliases followed: a bomb of aliases stops here

_ELSEWHERE = {  # parameters of notebooks that no manifest and no --set gives
    "seed": "give seeds in the manifest, or with --seeds",
    "folder": "choose it with --results",
    "device": "choose it with --device, which changes no run's id",
    "n_threads": "choose them with --threads, which changes no run's id",
}

Key = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Seeds = Annotated[list[Annotated[int, pydantic.Field(ge=0)]], pydantic.Field(min_length=1)]
Values = Annotated[list[Any], pydantic.Field(min_length=1)]
PresetName = Literal["smoke", "quick", "desk", "paper"]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Override(_Part):
    """What a preset changes."""

    parameters: dict[str, Any] = {}
    seeds: Seeds | None = None
    seconds: float | None = (
        None  # one run's wall time on one core of a laptop, as measured; for the forecast only
    )


class Entry(_Part):
    """One rule with its parameters; with a grid, one entry per grid point, numbered from 1, the
    last name fastest.

    In the grid the name of a table (`config`) takes tables, for parameters that change together.
    With a grid a list in `published` gives each point its own value; points after its end were not
    published.
    """

    label: str | list[str] | None = (
        None  # name in legends, of a grid one a point; default: the entry's key and number
    )
    source: str | None = None  # table, section or script that the values are from
    parameters: dict[str, Any] = {}
    grid: dict[str, Values] = {}
    seeds: Seeds | None = None
    needs: dict[
        str, str
    ] = {}  # parameter -> entry (of a grid: <entry>-<number>) whose run's id it is given
    seconds: float | None = None
    published: dict[str, Any] | None = (
        None  # rows of Results/published that this entry answers, by column and value
    )
    presets: dict[PresetName, Override | Literal[False]] = {}


class Experiment(_Part):
    """Runs that belong together in a figure or table."""

    title: str
    simulation: str
    source: str | None = None
    rule: str | None = (
        # of entries whose parameters name none: the simulation's default, said; no part of an id
        None
    )
    parameters: dict[str, Any] = {}
    seeds: Seeds
    seconds: float | None = None
    presets: dict[PresetName, Override | Literal[False]] = {}
    entries: dict[Key, Entry]

    @property
    def needs(self) -> dict[str, set[str]]:
        """The entries that each entry needs; those of a grid by their expanded names."""
        names = [
            (name, entry) for key, entry in self.entries.items() for name in _names(key, entry)
        ]
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
    # parameter -> id of a run of the same experiment
    needs: dict[str, str] = dataclasses.field(default_factory=dict)
    stated_rule: str | None = None  # the experiment's `rule`
    # device, n_threads; empty: the notebook's
    execution: dict[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """`<rule>-<dataset>-s<seed>-<hash8>`; the hash is over simulation and parameters, the same
        everywhere.
        """
        canonical = json.dumps(
            [self.simulation, self.parameters], sort_keys=True, separators=(",", ":")
        )
        words = [
            self.parameters.get("rule", self.entry),
            Path(str(self.parameters.get("dataset", self.simulation))).stem,
        ]
        clean = "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", str(word))[:40] for word in words)
        return f"{clean}-s{self.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    @property
    def rule(self) -> str | None:
        """The key of the rule that runs; None only where manifest and notebook know none (see
        `check`).
        """
        return self.parameters.get("rule", self.stated_rule)

    @property
    def inputs(self) -> dict[str, Any]:
        """What the notebook is executed with, `folder` aside."""
        return {**self.parameters, **self.execution}

    @property
    def key(self) -> str:
        """`<paper>/<experiment>/<entry>/<id>`: what `--only` is matched against."""
        return f"{self.paper}/{self.experiment}/{self.entry}/{self.id}"

    @property
    def experiment_folder(self) -> Path:
        """Where this run's experiment keeps its results."""
        return paths.root() / self.preset / self.paper / self.experiment

    @property
    def folder(self) -> Path:
        """Where this run keeps its result, record, notebook and checkpoint."""
        return self.experiment_folder / self.id

    @property
    def needed_folders(self) -> list[Path]:
        """The folders of the runs that this one needs."""
        return [self.experiment_folder / run_id for run_id in self.needs.values()]

    def check(self) -> None:
        """Raise `BioplausError`, naming manifest and entry, unless the simulation can run with
        these parameters.

        An entry says which rule it runs: it is not left to the default of the notebook, unawares.
        """
        try:
            chosen = simulation.load(self.simulation)
            if chosen.rule != self.rule and "rule" not in self.parameters:
                said = f"the experiment says rule: {self.rule}" if self.rule else "it names no rule"
                raise BioplausError(
                    f"{said}, but {self.simulation} would run its default, {chosen.rule}; give"
                    " `rule` among the parameters of the entry."
                )
            chosen.check({**self.inputs, "folder": str(self.folder)})
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
        For an unknown paper, a file that is not YAML, a name given twice, or a wrong or unknown
        key; the file, the place and what was allowed are named.
    """
    if paper not in papers():
        raise unknown("paper", paper, papers())
    path = _folder() / f"{paper}.yaml"
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Manifest:
    """Read and check one manifest file (YAML 1.2: `1e-4` is a number), again only after it
    `changed`.
    """
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
    _check_size(content, path.name)
    for key, part in content.items() if isinstance(content, dict) else ():
        _check_json(part, f"{path.name}, {key}")
    try:
        found = Manifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise _sentence(error, path.name) from None
    if found.paper != path.stem:
        raise BioplausError(
            f"{path.name} says paper: {found.paper}, but its file name says {path.stem}."
        )
    for name, experiment in found.experiments.items():
        _check_names(experiment, f"{path.name}, {name}")
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
    execution: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Every run of a preset, in manifest order.

    Parameters
    ----------
    papers : keys; None means all that have a manifest.
    only : a run id, or a glob over `<paper>/<experiment>/<entry>/<id>` or any consecutive part of
        it; the runs that the matching ones need come with them.
    seeds : in place of the manifest's.
    overrides : parameters by dotted name ("n_epochs", "config.lr_neural") that win over the
        manifest's.
    experiment : expand this one only, by its key; a large manifest has thousands of runs.
    execution : "device" and "n_threads" of every run, in place of what its notebook says; no part
        of an id.

    Raises
    ------
    BioplausError
        For an unknown preset or paper, an `only` that matches nothing, a seed below 0, and
        overrides that are no parameters or whose names contradict one another.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    seeds = None if seeds is None else _checked_seeds(seeds)
    overrides = _checked_overrides(overrides or {})
    chosen = list(papers) if papers is not None else globals()["papers"]()
    found = []
    for paper in chosen:
        described = load(paper)
        if experiment is not None:
            kept = {key: one for key, one in described.experiments.items() if key == experiment}
            described = described.model_copy(update={"experiments": kept})
        found += _expand(described, preset, seeds, overrides)
    found = (
        [dataclasses.replace(run, execution=dict(execution)) for run in found]
        if execution
        else found
    )
    if only is None:
        return found
    matching = [run for run in found if _matches(run, only)]
    if not matching:
        known = {
            part
            for run in found
            for part in (run.experiment, run.entry, f"{run.experiment}/{run.entry}")
        }
        raise unknown(f"experiment, entry or run at preset {preset}", only, known)
    by_folder = {run.folder: run for run in found}
    wanted, todo = {run.key for run in matching}, matching
    while todo:
        needed = [by_folder[folder] for run in todo for folder in run.needed_folders]
        todo = [run for run in needed if run.key not in wanted]
        wanted |= {run.key for run in todo}
    return [run for run in found if run.key in wanted]


def _folder() -> Path:
    return paths.project_root() / "Simulations" / "manifests"


def _check_size(content: Any, place: str) -> None:
    if sum(1 for _ in itertools.islice(_nodes(content), _MAX_NODES)) == _MAX_NODES:
        raise BioplausError(
            f"{place} has more than {_MAX_NODES:,} values once its aliases are followed."
        )


def _nodes(value: Any) -> Iterator[None]:
    """One None for each value in `value`, itself included; without end where an alias stands for
    what it is in.
    """
    todo = [iter([value])]
    while todo:
        for item in todo[-1]:
            yield None
            if isinstance(item, dict | list):
                todo.append(iter(item.values() if isinstance(item, dict) else item))
                break
        else:
            todo.pop()


def _matches(run: Run, pattern: str) -> bool:
    parts = run.key.split("/")
    spans = ("/".join(parts[i:j]) for i in range(4) for j in range(i + 1, 5))
    return any(fnmatch.fnmatchcase(span, pattern) for span in spans)


def _expand(
    found: Manifest, preset: str, seeds: list[int] | None, overrides: dict[str, Any]
) -> Iterator[Run]:
    """Every run at a preset, in manifest order, with the ids of the runs it needs among its
    parameters.
    """
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
                        f"{run.paper}.yaml, {run.experiment}/{run.entry} needs {entry} with seed"
                        f" {run.seed}, which preset {preset} does not run."
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


def _check_names(experiment: Experiment, place: str) -> None:
    """Raise for two entries of one name, and for parameters that are given elsewhere."""
    grids = [(key, entry) for key, entry in experiment.entries.items() if entry.grid]
    for key, entry in grids:
        for name in _names(key, entry):
            if name in experiment.entries:
                raise BioplausError(
                    f"{place}: entry {name} has the name of a grid point of entry {key}; rename it."
                )
    _refuse_elsewhere(_given(experiment), place)
    for key, entry in experiment.entries.items():
        _refuse_elsewhere([*_given(entry), *entry.grid, *entry.needs], f"{place}/{key}")


def _given(part: Experiment | Entry) -> Iterator[str]:
    """The names of the parameters that an experiment or entry gives itself or at a preset."""
    yield from part.parameters
    for override in part.presets.values():
        yield from override.parameters if override else ()


def _refuse_elsewhere(names: Iterable[str], place: str) -> None:
    for name in names:
        if (first := name.partition(".")[0]) in _ELSEWHERE:
            raise BioplausError(
                f"{place}: {first} is not given as a parameter; {_ELSEWHERE[first]}."
            )


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    found = list(seeds)
    for seed in found:
        if seed < 0:
            raise BioplausError(f"A seed is {seed}, but must be at least 0.")
    if not found:
        raise BioplausError("There is no seed; give at least one, from 0.")
    return found


def _checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted name as nested parameters."""
    _refuse_elsewhere(overrides, "--set")
    for name, value in overrides.items():
        _check_size(value, f"--set {name}")
        _check_json(value, f"--set {name}")
        inside = [other for other in overrides if other.startswith(f"{name}.")]
        if inside and not isinstance(value, dict):
            raise BioplausError(
                f"--set gives {name} the value {value!r}, and sets {inside[0]} inside it; leave"
                " one."
            )
    return _nested(overrides)


def _check_json(value: Any, place: str) -> None:
    """Raise unless `value` is None, a bool, int, float or str, or a list or dict of these with text
    keys.
    """
    if type(value) is list:
        for number, item in enumerate(value):
            _check_json(item, f"{place}/{number}")
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise BioplausError(f"{place}: the name {key!r} is not a text; put it in quotes.")
            _check_json(item, f"{place}/{key}")
    elif not (value is None or type(value) in (bool, int, float, str)):
        raise BioplausError(
            f"{place} is {str(value)[:80]} ({type(value).__name__}), but must be a number, a text,"
            " true, false, null, or a list or table of these; quotes make a text."
        )


def _check_lists(entry: Entry, place: str) -> None:
    """Raise where a list that goes along the grid does not fit it."""
    if isinstance(entry.label, list) and not entry.grid:
        raise BioplausError(
            f"{place}: a list of labels needs a grid; without one, label is one text."
        )
    n_points = len(_points(entry.grid)) if entry.grid else 0
    if isinstance(entry.label, list) and len(entry.label) != n_points:
        raise BioplausError(
            f"{place}: label has {len(entry.label)} names, but the grid has {n_points} points."
        )
    for column, values in (entry.published or {}).items():
        if isinstance(values, list) and not 0 < len(values) <= n_points:
            raise BioplausError(
                f"{place}, published/{column} has {len(values)} values, but must have 1 to"
                f" {n_points}, the number of points of the grid."
            )


def _names(key: str, entry: Entry) -> list[str]:
    """The names of an entry's runs: its key, or numbered from 1 where it has a grid."""
    return (
        [f"{key}-{number}" for number in range(1, len(_points(entry.grid)) + 1)]
        if entry.grid
        else [key]
    )


def _expand_plain(
    found: Manifest, preset: str, seeds: list[int] | None, overrides: dict[str, Any]
) -> Iterator[Run]:
    for name, experiment in found.experiments.items():
        of_experiment = experiment.presets.get(preset, Override() if preset == "paper" else False)
        for key, entry in experiment.entries.items():
            of_entry = entry.presets.get(preset, Override() if of_experiment else False)
            if not of_entry:
                continue
            changes = of_experiment or Override()
            chosen = next(
                s
                for s in (seeds, of_entry.seeds, changes.seeds, entry.seeds, experiment.seeds)
                if s is not None
            )
            forecast = next(
                (
                    s
                    for s in (of_entry.seconds, changes.seconds, entry.seconds, experiment.seconds)
                    if s is not None
                ),
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
                    overrides,
                )
                for seed in dict.fromkeys(chosen):
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
                        stated_rule=experiment.rule,
                        # names of entries, until `_expand` puts ids in their place
                        needs=entry.needs,
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
    lists = {
        column: values for column, values in (published or {}).items() if isinstance(values, list)
    }
    if any(len(values) < number for values in lists.values()):
        return None
    return published and {
        **published,
        **{column: values[number - 1] for column, values in lists.items()},
    }


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"config.lr": 1} becomes {"config": {"lr": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return tree


def _merge(*tables: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
            merged[name] = _merge(merged[name], value) if both else deepcopy(value)
    return merged


def _sentence(error: pydantic.ValidationError, file: str) -> BioplausError:
    """The first of pydantic's errors as one sentence; an unknown key gets the nearest allowed
    one.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if part not in ("Override", "literal[False]")]
    if first["type"] == "extra_forbidden":
        return unknown(
            "key", place[-1], _allowed(place[:-1]), f"{file}, {'/'.join(place[:-1]) or 'top level'}"
        )
    if first["type"] == "literal_error" and "[key]" in place:
        return unknown("preset", first["input"], PRESETS, f"{file}, {'/'.join(place[:-2])}")
    if first["type"] == "string_pattern_mismatch":  # the one pattern is that of names
        where = "/".join(part for part in place if part != "[key]")
        return BioplausError(
            f"{file}, {where}: a name is of small letters, digits, _ and -, a letter first, not"
            f" {first['input']!r}."
        )
    return BioplausError(
        f"{file}, {'/'.join(place) or 'top level'}: {first['msg']}, not {first.get('input')!r}."
    )


def _allowed(place: list[str]) -> Iterable[str]:
    """The keys allowed at a place in a manifest, which alternates between keys and names."""
    if "presets" in place:
        return Override.model_fields
    return {0: Manifest, 2: Experiment, 4: Entry}.get(len(place), Manifest).model_fields
