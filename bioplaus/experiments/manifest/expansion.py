"""From manifests to runs: presets, grids, seeds and overrides, and the ids of needed runs."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bioplaus import paths
from bioplaus.config import check_seed
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments import files
from bioplaus.experiments.manifest import reading
from bioplaus.experiments.manifest.model import PRESETS, Manifest, Override
from bioplaus.experiments.manifest.parameters import (
    check_json,
    check_size,
    merge,
    nested,
    refuse_options,
)
from bioplaus.experiments.run import Run

_T = TypeVar("_T")


def runs(
    preset: str,
    papers: Iterable[str] | None = None,
    only: str | Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    experiment: str | None = None,
    one_seed: bool = False,
    execution: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Every run of a preset, in manifest order.

    Parameters
    ----------
    papers : keys; None means all that have a manifest.
    only : a run id, or a glob over `<paper>/<experiment>/<entry>/<id>` or any consecutive part of
        it, or several of these; the runs that the matching ones need come with them.
    seeds : in place of the manifest's.
    overrides : parameters by dotted name ("n_epochs", "config.lr_neural") that win over the
        manifest's. Paths are relative to the current folder; in a manifest, to the project's.
    experiment : expand this one only, by its key; a large manifest has thousands of runs.
    one_seed : only the first seed of each entry, where no entry needs another.
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
    expanded: list[Run] = []
    for paper in reading.papers() if papers is None else papers:
        manifest = reading.load(paper)
        if experiment is not None:
            kept = {key: one for key, one in manifest.experiments.items() if key == experiment}
            manifest = manifest.model_copy(update={"experiments": kept})
        expanded += _expand(manifest, preset, seeds, overrides, one_seed)
    if execution:
        expanded = [dataclasses.replace(run, execution=dict(execution)) for run in expanded]
    return expanded if only is None or only == [] else _select(expanded, _patterns(only), preset)


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    seeds = list(seeds)
    for seed in seeds:
        check_seed(seed)
    if not seeds:
        raise BioplausError("There is no seed; give at least one, from 0.")
    return seeds


def _checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted name as nested parameters."""
    refuse_options(overrides, "--set")
    for name, value in overrides.items():
        check_size(value, f"--set {name}")
        check_json(value, f"--set {name}")
        inside = [other for other in overrides if other.startswith(f"{name}.")]
        if inside and not isinstance(value, dict):
            raise BioplausError(
                f"--set gives {name} the value {value!r}, and sets {inside[0]} inside it; leave"
                " one."
            )
    return files.resolve(nested(overrides), Path.cwd())


def _expand(
    manifest: Manifest,
    preset: str,
    seeds: list[int] | None,
    overrides: dict[str, Any],
    one_seed: bool,
) -> Iterator[Run]:
    """Every run at a preset, in manifest order, with the ids of the runs it needs among its
    parameters.
    """
    without_ids = list(_expand_without_ids(manifest, preset, seeds, overrides, one_seed))
    by_name = {(run.experiment, run.entry, run.seed): run for run in without_ids}
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
            parameters = merge(run.parameters, nested(ids))
            finished[name] = dataclasses.replace(run, parameters=parameters, needs=ids)
        return finished[name]

    yield from map(finish, without_ids)


def _expand_without_ids(
    manifest: Manifest,
    preset: str,
    seeds: list[int] | None,
    overrides: dict[str, Any],
    one_seed: bool,
) -> Iterator[Run]:
    """Every run at a preset; its `needs` hold names of entries, until `_expand` puts ids there."""
    base = paths.project_root()
    for name, experiment in manifest.experiments.items():
        needs_others = any(entry.needs for entry in experiment.entries.values())
        last = 1 if one_seed and not needs_others else None
        at_preset = experiment.presets.get(preset, Override() if preset == "paper" else False)
        for key, entry in experiment.entries.items():
            entry_at_preset = entry.presets.get(preset, Override() if at_preset else False)
            if not entry_at_preset:
                continue
            changes = at_preset or Override()
            layers = (entry_at_preset, changes, entry, experiment)
            points = zip(entry.names(key), entry.points, strict=True)
            for number, (entry_name, point) in enumerate(points, start=1):
                parameters = merge(
                    experiment.parameters,
                    entry.parameters,
                    point,
                    changes.parameters,
                    entry_at_preset.parameters,
                    overrides,
                )
                parameters = files.resolve(parameters, base)
                own_seeds = _first(seeds, *(layer.seeds for layer in layers)) or []
                for seed in dict.fromkeys(own_seeds[:last]):
                    yield Run(
                        paper=manifest.paper,
                        experiment=name,
                        entry=entry_name,
                        label=entry.point_label(key, number),
                        preset=preset,
                        simulation=experiment.simulation,
                        seed=seed,
                        parameters=merge(parameters, {"seed": seed}),
                        published=entry.point_published(number),
                        seconds=_first(*(layer.seconds for layer in layers)),
                        stated_rule=experiment.rule,
                        needs=entry.needs,
                        n_seeds_added=_first(
                            entry_at_preset.n_seeds_added, changes.n_seeds_added, 0
                        ),
                    )


def _first(*values: _T | None) -> _T | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)


def _select(expanded: list[Run], patterns: Iterable[str], preset: str) -> list[Run]:
    """The runs that match one of the patterns, and those they need, in the order given."""
    todo: list[Run] = []
    for pattern in patterns:
        matching = [run for run in expanded if _matches(run, pattern)]
        if not matching:
            known = {
                part
                for run in expanded
                for part in (run.experiment, run.entry, f"{run.experiment}/{run.entry}")
            }
            raise unknown(f"experiment, entry or run at preset {preset}", pattern, known)
        todo += matching
    wanted = {run.key for run in todo}
    by_folder = {run.folder: run for run in expanded} if any(run.needs for run in todo) else {}
    while todo:
        needed = [by_folder[folder] for run in todo for folder in run.needed_folders]
        todo = [run for run in needed if run.key not in wanted]
        wanted |= {run.key for run in todo}
    return [run for run in expanded if run.key in wanted]


def _patterns(only: str | Iterable[str]) -> Iterable[str]:
    return [only] if isinstance(only, str) else only


def _matches(run: Run, pattern: str) -> bool:
    parts = run.key.split("/")
    spans = ("/".join(parts[i:j]) for i in range(4) for j in range(i + 1, 5))
    return any(fnmatch.fnmatchcase(span, pattern) for span in spans)
