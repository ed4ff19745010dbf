"""Execute the analysis notebooks whose drawings are out of date, side by side.

A notebook is drawn again only if something it depends on changed: its source, the package's source
(rules, nets and tasks only if the notebook names them: they reach a figure through results), the
paper's manifest and published numbers, the preset's results of the experiments that it loaded, or
the versions of the libraries that draw. Their digest is kept in
`<preset>/notebooks/<notebook>.json`, beside the executed copy.
"""

import contextlib
import importlib.metadata
import multiprocessing
import os
import re
import tempfile
import traceback
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from bioplaus import _files, paths
from bioplaus import results as _results
from bioplaus.analysis import saving
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments import jupyter, manifest
from bioplaus.experiments import workers as processes
from bioplaus.experiments.cluster import Follower
from bioplaus.experiments.run import Run

_UNKNOWN_SECONDS = 60.0  # of a run whose manifest gives no time
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")  # a new version may draw differently


def draw(
    preset: str,
    papers: Iterable[str] | None = None,
    only: str | None = None,
    results: str | Path | None = None,
    *,
    workers: int = 0,
    force: bool = False,
) -> Iterator[str]:
    """Execute the analysis notebooks that are not up to date, in parallel, and yield a line as each
    ends.

    A generator: nothing is drawn until it is iterated. A notebook that fails stops none of the
    others; the page shows it with its error.

    Parameters
    ----------
    papers : keys; None means all that have a manifest.
    only : glob over notebook names without suffix.
    results : folder of results from now on, in place of `paths.root()`.
    workers : notebooks at once; 0 means one per core.
    force : draw again what is up to date.

    Raises
    ------
    BioplausError
        For an unknown preset or paper, an `only` that matches no notebook, or a folder that cannot
        be written.
    """
    if results is not None:
        os.environ["BIOPLAUS_RESULTS"] = str(Path(results).resolve())
    known = notebooks_of(preset, papers)
    chosen = [notebook for notebook in known if only is None or fnmatchcase(notebook.name, only)]
    if only is not None and not chosen:
        raise unknown("notebook", only, [notebook.name for notebook in known])
    todo = [notebook for notebook in chosen if force or not notebook.is_current]
    if len(todo) < len(chosen):
        yield f"{len(chosen) - len(todo)} of {len(chosen)} notebooks are up to date."
    if not todo:
        return
    drawn = _draw_all(todo, min(workers or processes.cores(), len(todo)))
    with jupyter.warm_kernels(len(todo)), contextlib.closing(drawn):
        for k, (notebook, error) in enumerate(drawn, start=1):
            ended = f"failed {notebook.name}: {error}" if error else f"drawn  {notebook.name}"
            yield f"[{k}/{len(todo)}] {ended}"


def followers(notebooks: Iterable["Notebook"], todo: Sequence[Run]) -> list[Follower]:
    """What draws, while the runs of `todo` are executed, each notebook that is not up to date as
    soon as its own have ended; those that show no run of ours in the end. It returns the sentence
    of its error, or nothing.
    """
    return [
        Follower(
            notebook.name,
            partial(_draw_one, notebook),
            own := notebook.shown(todo),
            is_urgent=bool(own) or any(map(notebook.has_results, notebook.experiments)),
        )
        for notebook in notebooks
        if notebook.shown(todo) or not notebook.is_current
    ]


def early_figures(notebooks: Iterable["Notebook"], todo: Sequence[Run]) -> list[Run]:
    """The runs of `todo`, next always those of the notebook that needs the least time."""
    seconds = {run.key: run.seconds or _UNKNOWN_SECONDS for run in todo}
    left = [{run.key: run for run in notebook.shown(todo)} for notebook in notebooks]
    ordered: dict[str, Run] = {}
    while left := [more for runs in left if (more := _without(runs, ordered))]:
        ordered |= min(left, key=lambda runs: sum(seconds[key] for key in runs))
    return list((ordered | {run.key: run for run in todo}).values())


def _without(runs: dict[str, Run], others: Container[str]) -> dict[str, Run]:
    return {key: run for key, run in runs.items() if key not in others}


@dataclass(frozen=True)
class Notebook:
    """One analysis notebook at one preset."""

    path: Path
    paper: str
    preset: str

    @property
    def name(self) -> str:
        """Its file name without suffix, the beginning of the names of what it draws."""
        return self.path.stem

    @property
    def title(self) -> str:
        """Its first heading."""
        lines = self._source("markdown").splitlines()
        return next(
            (line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), self.name
        )

    @property
    def copy(self) -> Path:
        """Where its executed copy goes."""
        return paths.root() / self.preset / "notebooks" / f"{self.name}.ipynb"

    @cached_property
    def state(self) -> dict[str, Any]:
        """What its last execution left: digest, status, error, names of files."""
        return _files.read_json(self.copy.with_suffix(".json")) or {}

    @property
    def is_current(self) -> bool:
        """Whether what it drew is what it would draw now."""
        made = [self.folder / file for file in self.state.get("files", [])]
        return (
            "experiments" in self.state
            and self.state.get("digest") == self.digest(self.state["experiments"])
            and bool(made)
            and all(path.is_file() for path in made)
        )

    @property
    def folder(self) -> Path:
        """The results of its preset."""
        return paths.root() / self.preset

    @property
    def experiments(self) -> list[str]:
        """The experiments whose runs it shows: those that it loaded when it was last drawn, else
        those that the manifest names, else all of its paper.
        """
        described = manifest.load(self.paper)
        named = described.notebooks.get(self.name, [*described.experiments])
        return self.state.get("experiments", named)

    def shown(self, runs: Iterable[Run]) -> list[Run]:
        """Those of these runs that it shows."""
        experiments = set(self.experiments)
        return [run for run in runs if run.paper == self.paper and run.experiment in experiments]

    def has_results(self, experiment: str) -> bool:
        """Whether anything was saved of an experiment of its paper."""
        folder = self.folder / self.paper / experiment
        return folder.with_name(f"{experiment}.pkl").exists() or any(folder.glob("*/run.json"))

    def digest(self, experiments: Iterable[str]) -> str:
        """sha256 of everything that decides what it draws, if it shows these experiments."""
        return _joined(self.source_digest(), map(self.results_digest, sorted(experiments)))

    def source_digest(self) -> str:
        """sha256 of what decides what it draws, but for results."""
        home = paths.project_root()
        files = [self.path, home / "Simulations" / "manifests" / f"{self.paper}.yaml"]
        files += sorted((home / "Results" / "published").glob(f"{self.paper}_*.csv"))
        names_models = re.search(r"\b(rules|nets|tasks)\b", self._source("code")) is not None
        return _joined(f"{self.preset} {_code(names_models)}", map(_file_digest, files))

    def results_digest(self, experiment: str) -> str:
        """sha256 of the complete runs of an experiment of its paper."""
        folder = self.folder / self.paper / experiment
        collected = folder.with_name(f"{experiment}.pkl")
        lines = [_file_digest(collected)] if collected.exists() else []
        for path in sorted(folder.glob("*/run.json")):
            result = path.with_name("result.pkl")
            try:
                state = str(_results.read_run(path.parent).get("sha256", ""))
            except BioplausError as error:  # drawn again once it is mended
                state = str(error)
            if state and result.is_file():
                lines.append(f"{path.parent.name} {state} {result.stat().st_size}")
        return _joined(experiment, lines)

    def outputs(self) -> list[dict[str, Any]]:
        """The descriptions of the figures and tables that it drew, in the order in which it did."""
        drawn = [
            description
            for description in saving.described(self.preset, self.paper)
            if description["notebook"] == self.name
        ]
        return sorted(drawn, key=lambda description: (description["order"], description["name"]))

    def _source(self, kind: str) -> str:
        """The text of its cells of one kind."""
        cells = (_files.read_json(self.path) or {}).get("cells", [])
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)

    def note(self, state: dict[str, Any]) -> None:
        """Remember how its execution ended."""
        path = self.copy.with_suffix(".json")
        _files.make_folder(path.parent)
        _files.write_json(path, {"notebook": self.name, **state})


def notebooks_of(preset: str, papers: Iterable[str] | None = None) -> list[Notebook]:
    """The figure and table notebooks of papers (all without any named), paper by paper."""
    if preset not in manifest.PRESETS:
        raise unknown("preset", preset, manifest.PRESETS)
    chosen = list(papers) if papers is not None else manifest.papers()
    for paper in chosen:
        manifest.load(paper)
    folder = paths.project_root() / "notebooks"
    return [
        Notebook(path, paper, preset)
        for paper in chosen
        for path in sorted(
            [*folder.glob(f"{paper}_fig*.ipynb"), *folder.glob(f"{paper}_tab*.ipynb")]
        )
    ]


def _joined(first: str, rest: Iterable[str]) -> str:
    """sha256 of these texts."""
    return _files.sha256("\n".join([first, *rest]).encode())


def _file_digest(path: Path) -> str:
    return f"{path.name} {_files.sha256(path.read_bytes())}"


@cache
def _code(with_models: bool) -> str:
    """sha256 of the package's source and of the versions of the libraries that draw, as this
    process found them.
    """
    package = Path(__file__).resolve().parents[1]
    files = {path.relative_to(package): path for path in package.rglob("*.py")}
    if not with_models:
        files = {
            name: path
            for name, path in files.items()
            if name.parts[0] not in ("rules", "nets", "tasks")
        }
    sources = [f"{name} {_files.sha256(path.read_bytes())}" for name, path in files.items()]
    versions = [f"{library} {importlib.metadata.version(library)}" for library in _LIBRARIES]
    return _files.sha256("\n".join(sorted(sources) + versions).encode())


def _draw_all(todo: list[Notebook], workers: int) -> Iterator[tuple[Notebook, str]]:
    """Each notebook with the sentence of its error, or nothing, as it ends.

    When a process dies (memory ran out), its pool ends and which notebook it drew is not known:
    those that had not ended are drawn one by one, each in a process of its own, and only what dies
    there has failed.
    """
    pool, unknown_end = _pool(workers), []
    try:
        futures = {pool.submit(_draw_one, notebook): notebook for notebook in todo}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                unknown_end.append(futures[future])
    finally:
        pool.shutdown(cancel_futures=True)
    for notebook in unknown_end:
        with _pool(1) as pool:
            try:
                error = pool.submit(_draw_one, notebook).result()
            except BrokenProcessPool:
                error = "the process that drew it died"
                notebook.note({"status": "failed", "error": error})
        yield notebook, error


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes with fresh interpreters: nothing of the caller (threads, figures, sockets) can
    reach a notebook.
    """
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _draw_one(notebook: Notebook) -> str:
    """Execute one notebook, in this process's own kernel; the sentence of its error, or nothing."""
    from bioplaus.experiments import notebooks

    # before: a result that arrives meanwhile makes it out of date
    source, experiments = notebook.source_digest(), manifest.load(notebook.paper).experiments
    results = {experiment: notebook.results_digest(experiment) for experiment in experiments}
    before = {drawing["path"]: drawing["path"].stat().st_mtime_ns for drawing in notebook.outputs()}
    # In a folder of its own: kernels that start in one folder at once would take each other's ipc
    # sockets.
    with tempfile.TemporaryDirectory(prefix="bioplaus-") as folder:
        copy = Path(folder) / notebook.copy.name
        try:
            with jupyter.environment_set(jupyter.environment()):
                notebooks.execute(
                    notebook.path, copy, {"preset": notebook.preset}, inside=copy.parent
                )
        except Exception as error:  # whatever it is, it belongs on the page and stops no other
            sentence = f"{type(error).__name__}: {error}"
            if isinstance(error, BioplausError):
                sentence = str(error)
            trace = getattr(error, "traceback", "") or traceback.format_exc()
            notebook.note({"status": "failed", "error": sentence, "traceback": trace})
            return sentence
        finally:
            if copy.is_file():
                _files.make_folder(notebook.copy.parent)
                _files.write_atomic(notebook.copy, copy.read_bytes())
    for path, written in before.items():
        if path.is_file() and path.stat().st_mtime_ns == written:  # it no longer draws this one
            for stale in path.parent.glob(f"{path.stem}.*"):
                stale.unlink()
    drawings = notebook.outputs()
    loaded = sorted({name for drawing in drawings for name in drawing["loaded"]} & results.keys())
    digest = _joined(source, (results[name] for name in loaded))
    files = [
        str(drawing["path"].with_suffix(f".{kind}").relative_to(notebook.folder))
        for drawing in drawings
        for kind in ("json", *drawing["files"])
    ]
    drawn = {"digest": digest, "experiments": loaded, "files": files}
    notebook.note({"status": "drawn", "error": "", **drawn})
    return ""
