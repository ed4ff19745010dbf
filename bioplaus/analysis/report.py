"""From results to the report page: execute the analysis notebooks, and put all they drew on one
page.

A notebook is drawn again only if something it depends on changed: its source, the package's source
(rules, nets and tasks only if the notebook names them: they reach a figure through results), the
paper's manifest and published numbers, the preset's results of that paper, or the versions of the
libraries that draw. Their digest is kept in `<preset>/notebooks/<notebook>.json`, beside the
executed copy.
"""

import base64
import contextlib
import hashlib
import importlib.metadata
import multiprocessing
import os
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bioplaus import _files, paths
from bioplaus import results as _results
from bioplaus.analysis import experiment as analysis
from bioplaus.analysis import published, tables
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments import cluster, jupyter, manifest

_LIBRARIES = ("matplotlib", "numpy", "pandas")  # a new version may draw differently


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
    found = _notebooks(preset, papers)
    chosen = [notebook for notebook in found if only is None or fnmatchcase(notebook.name, only)]
    if only is not None and not chosen:
        raise unknown("notebook", only, [notebook.name for notebook in found])
    todo = [notebook for notebook in chosen if force or not notebook.is_current]
    if len(todo) < len(chosen):
        yield f"{len(chosen) - len(todo)} of {len(chosen)} notebooks are up to date."
    if not todo:
        return
    drawn = _draw_all(todo, min(workers or cluster.cores(), len(todo)))
    with jupyter.warm_kernels(len(todo)), contextlib.closing(drawn):
        for number, (notebook, error) in enumerate(drawn, start=1):
            ended = f"failed {notebook.name}: {error}" if error else f"drawn  {notebook.name}"
            yield f"[{number}/{len(todo)}] {ended}"


def render(preset: str) -> Path:
    """Write `<preset>/report/index.html`, one self-contained page with every figure, table and
    claim, and return it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bioplaus.analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "metric": tables.metric,
        "number": tables.number,
        "signed": tables.signed,
        "image": _image,
    }
    page = environment.get_template("report.html.j2").render(_contents(preset))
    path = paths.root() / preset / "report" / "index.html"
    _files.make_folder(path.parent)
    _files.write_atomic(path, page.encode())
    return path


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
        made = [self._folder / file for file in self.state.get("files", [])]
        return (
            self.state.get("digest") == self.digest()
            and bool(made)
            and all(path.is_file() for path in made)
        )

    @property
    def _folder(self) -> Path:
        return paths.root() / self.preset

    def digest(self) -> str:
        """sha256 of everything that decides what it draws."""
        home = paths.project_root()
        files = [self.path, home / "Simulations" / "manifests" / f"{self.paper}.yaml"]
        files += sorted((home / "Results" / "published").glob(f"{self.paper}_*.csv"))
        files += sorted((self._folder / self.paper).glob("*.pkl"))
        names_models = re.search(r"\b(rules|nets|tasks)\b", self._source("code")) is not None
        digest = hashlib.sha256(f"{self.preset} {_code(names_models)}".encode())
        for path in files:
            digest.update(f"{path.name} {_files.sha256(path.read_bytes())}\n".encode())
        for path in sorted((self._folder / self.paper).glob("*/*/run.json")):
            result = path.with_name("result.pkl")
            try:
                state = str(_results.read_run(path.parent).get("sha256", ""))
            except BioplausError as error:  # drawn anew once it is mended
                state = str(error)
            if state and result.is_file():
                digest.update(f"{path.parent.name} {state} {result.stat().st_size}\n".encode())
        return digest.hexdigest()

    def outputs(self) -> list[dict[str, Any]]:
        """The descriptions of the figures and tables that it drew, in the order in which its source
        names them.
        """
        source = self._source("code")
        found = [
            {**about, "file": str(path.relative_to(self._folder))}
            for kind in ("figures", "tables")
            for path in sorted((self._folder / kind).glob(f"{self.name}*.json"))
            if isinstance(about := _files.read_json(path), dict)
            and about.get("notebook") == self.name
        ]
        return sorted(found, key=lambda about: (source.find(f'"{about["name"]}"'), about["name"]))

    def _source(self, kind: str) -> str:
        """The text of its cells of one kind."""
        cells = (_files.read_json(self.path) or {}).get("cells", [])
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)

    def note(self, state: dict[str, Any]) -> None:
        """Remember how its execution ended."""
        path = self.copy.with_suffix(".json")
        _files.make_folder(path.parent)
        _files.write_json(path, {"notebook": self.name, **state})


def _notebooks(preset: str, papers: Iterable[str] | None = None) -> list[Notebook]:
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

    os.environ.update(jupyter.environment())
    digest = notebook.digest()  # before: a result that arrives meanwhile makes it out of date
    before = {
        about["file"]: (notebook._folder / about["file"]).stat().st_mtime_ns
        for about in notebook.outputs()
    }
    # In a folder of its own: kernels that start in one folder at once would take each other's ipc
    # sockets.
    with tempfile.TemporaryDirectory(prefix="bioplaus-") as folder:
        copy = Path(folder) / notebook.copy.name
        try:
            notebooks.execute(notebook.path, copy, {"preset": notebook.preset})
        except (
            Exception
        ) as error:  # whatever it is, it belongs on the page and stops no other notebook
            sentence = (
                str(error)
                if isinstance(error, BioplausError)
                else f"{type(error).__name__}: {error}"
            )
            trace = getattr(error, "traceback", "") or traceback.format_exc()
            notebook.note({"status": "failed", "error": sentence, "traceback": trace})
            return sentence
        finally:
            if copy.is_file():
                _files.make_folder(notebook.copy.parent)
                _files.write_atomic(notebook.copy, copy.read_bytes())
    for file, written in before.items():
        path = notebook._folder / file
        if path.is_file() and path.stat().st_mtime_ns == written:  # it no longer draws this one
            for stale in path.parent.glob(f"{path.stem}.*"):
                stale.unlink()
    made = notebook.outputs()
    files = [
        str(Path(about["file"]).with_suffix(f".{kind}"))
        for about in made
        for kind in ("json", *about["files"])
    ]
    notebook.note({"status": "drawn", "error": "", "digest": digest, "files": files})
    return ""


def _contents(preset: str) -> dict[str, Any]:
    """Everything the page says."""
    sections, runs, claims, provenance, damaged = [], [], {}, [], []
    for paper in manifest.papers():
        described = manifest.load(paper)
        notebooks = [
            {
                "name": notebook.name,
                "title": notebook.title,
                "state": notebook.state,
                "outputs": notebook.outputs(),
            }
            for notebook in _notebooks(preset, [paper])
        ]
        sections.append(
            {
                "paper": paper,
                "title": described.title,
                "citation": described.citation,
                "notebooks": notebooks,
            }
        )
        for about in (about for notebook in notebooks for about in notebook["outputs"]):
            for claim in about["claims"]:
                key = tuple(
                    claim[name] for name in ("paper", "experiment", "entry", "metric", "axis", "x")
                )
                claims.setdefault(key, claim)
        for experiment in described.experiments:
            with warnings.catch_warnings(record=True) as problems:
                warnings.simplefilter("always")
                try:
                    found = analysis.load(paper, experiment, preset)
                except BioplausError as error:
                    damaged.append(f"{paper}, {experiment}: {error}")
                    continue
            damaged += [f"{paper}, {experiment}: {problem.message}" for problem in problems]
            if found.runs:
                runs.append(_run_counts(found))
                provenance += [outcome.run for outcome in found.outcomes]
    newest = max(provenance, key=lambda run: run.get("finished", ""), default={})
    compared = [
        claim
        for claim in claims.values()
        if claim["published"] is not None and claim.get("planned", True)
    ]
    return {
        "preset": preset,
        "presets": manifest.PRESETS,
        "sections": sections,
        "runs": runs,
        "claims": compared,
        "headlines": _headlines(compared),
        "grades": Counter(claim["grade"] for claim in compared),
        "totals": {state: sum(row[state] for row in runs) for state in ("planned", *_STATES)},
        "datasets": sorted({name for row in runs for name in row["datasets"]}),
        "commits": sorted({_commit(run) for run in provenance}),
        "newest": newest.get("finished", "")[:10],
        "versions": newest.get("versions", {}),
        "n_failed": sum(
            notebook["state"].get("status") == "failed"
            for s in sections
            for notebook in s["notebooks"]
        ),
        "damaged": damaged,
        "limit": published.LIMIT,
    }


_STATES = ("done", "collapsed", "diverged", "failed", "missing")


def _run_counts(found: analysis.Analysis) -> dict[str, Any]:
    """How the runs of an experiment ended; a missing one whose last attempt failed counts as
    failed, with its error.
    """
    states, errors = dict(found.status), {}
    for run in found.runs:
        last = _results.inspect(run.folder) if states[run.id] == "missing" else None
        if last and last.status == "failed":
            states[run.id], errors[run.id] = "failed", last.run.get("error", "")
    return {
        "paper": found.paper,
        "experiment": found.experiment,
        "title": found.title,
        "datasets": found.about["datasets"],
        "planned": len(states),  # a run that two entries share is one
        **{state: list(states.values()).count(state) for state in _STATES},
        "errors": errors,
        "entries": found.overview().to_dict("records"),
        "command": analysis.command(found.preset, found.paper, found.experiment),
    }


def _headlines(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each entry and metric: the last value that was compared, else the last published one."""
    found: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for claim in claims:
        of_entry = found.setdefault((claim["paper"], claim["experiment"], claim["entry"]), {})
        of_entry.setdefault(claim["metric"], []).append(claim)
    chosen = []
    for group in (group for of_entry in found.values() for group in of_entry.values()):
        group.sort(key=lambda claim: claim["x"])
        compared = [claim for claim in group if claim["n"]]
        chosen.append((compared or group)[-1])
    return chosen


def _commit(run: dict[str, Any]) -> str:
    commit = run.get("commit")
    return (
        f"{commit[:10]}{' with changes' if run.get('dirty') else ''}"
        if commit
        else "unknown commit"
    )


def _image(about: dict[str, Any], preset: str) -> str:
    """A figure's png as a data address."""
    content = (paths.root() / preset / about["file"]).with_suffix(".png").read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()
