"""The report: a page of all papers, a page a paper with its figures, one of claims, one of runs.

The pages link to the figures beside them, and may be written again while runs go on.
"""

import base64
import collections
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bioplaus import _files, paths
from bioplaus import results as _results
from bioplaus.analysis import experiment as loading
from bioplaus.analysis import tables
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.drawing import draw, notebooks_of
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.verdicts import MARGIN, MIN_SEEDS, Verdict
from bioplaus.errors import BioplausError
from bioplaus.experiments import forecast, manifest
from bioplaus.experiments.manifest import Manifest

__all__ = ["draw", "render"]  # the two steps of the command `report`

_STATES = ("done", "collapsed", "diverged", "failed", "missing")
_COMPARED = (Verdict.AGREES, Verdict.DIFFERS_SLIGHTLY, Verdict.DIFFERS, Verdict.UNDECIDED)
_ORDERED = (Verdict.HOLDS, Verdict.CONTRADICTED, Verdict.UNDECIDED)
_AGAINST = (Verdict.DIFFERS, Verdict.CONTRADICTED)
_SHOWN_DPI = 100  # of figures on a page of ordinary width; their files have 150
_PICTURE = (640, 400)  # pixels of the picture that stands for a paper
_MOST_WORDS = 8  # lines of a figure that its text alternative names


def render(preset: str, working: str = "") -> Path:
    """Write the pages of a preset to `<preset>/report`, and return the first one, `index.html`.

    Parameters
    ----------
    working : how far the work is that still goes on; the pages say so, and load themselves again.
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
        "number": lambda mean, sd=None: tables.number(mean, sd),
        "with_n": tables.with_n,
        "difference": tables.difference,
        "verdict": tables.verdict,
        "digits": tables.digits_of,
        "link": _link,
        "words": _words,
    }
    contents = {**_contents(preset), "working": working}
    folder = paths.root() / preset / "report"
    _files.make_folder(folder)
    pages = [("index", "index.html", {}), ("claims", "claims.html", {}), ("runs", "runs.html", {})]
    pages += [("paper", paper["file"], {"paper": paper}) for paper in contents["papers"]]
    for template, file, more in reversed(pages):  # the first page last: it links to the others
        page = environment.get_template(f"{template}.html.j2")
        text = page.render(**contents, **more, page=file)
        _files.write_atomic(folder / file, text.encode())
    return folder / "index.html"


def has_figures(preset: str) -> bool:
    """Whether any figure is drawn."""
    return any((paths.root() / preset / "figures").glob("*.webp"))


def _contents(preset: str) -> dict[str, Any]:
    """Everything the pages say."""
    described = {paper: manifest.load(paper) for paper in manifest.papers()}
    notebooks = {paper: _drawn(preset, paper) for paper in described}
    claims = _unique(
        claim
        for drawn in notebooks.values()
        for notebook in drawn
        for output in notebook["outputs"]
        for claim in output["claims"]
    )
    planned = [claim for claim in claims if claim.is_planned]
    shown = [claim for claim in planned if claim.is_ordering or claim.published is not None]
    headlines = _headlines(shown)
    runs, damaged = [], []
    for paper, content in described.items():
        for experiment in content.experiments:
            with warnings.catch_warnings(record=True) as problems:
                warnings.simplefilter("always")
                try:
                    run_set = loading.load(paper, experiment, preset)
                except BioplausError as error:
                    damaged.append(f"{paper}, {experiment}: {error}")
                    continue
            damaged += [f"{paper}, {experiment}: {problem.message}" for problem in problems]
            if run_set.runs:
                runs.append(_run_counts(run_set))
    papers = [
        _paper(
            preset,
            content,
            notebooks[paper],
            [claim for claim in headlines if claim.paper == paper],
            [row for row in runs if row["paper"] == paper],
        )
        for paper, content in described.items()
    ]
    provenance = [record for row in runs for record in row["records"]]
    newest = max(provenance, key=lambda record: record.get("finished", ""), default={})
    links = {"Papers": "index.html", **{paper["key"]: paper["file"] for paper in papers}}
    return {
        "preset": preset,
        "presets": manifest.PRESETS,
        "pages": {**links, "Claims": "claims.html", "Runs": "runs.html"},
        "papers": papers,
        "runs": runs,
        "n_claims": len(shown),
        "headlines": headlines,
        "values": _counts(headlines, _COMPARED, are_orderings=False),
        "orderings": _counts(headlines, _ORDERED, are_orderings=True),
        "n_not_run": sum(claim.verdict is Verdict.NOT_RUN for claim in headlines),
        "totals": _totals(runs),
        "datasets": sorted({name for row in runs for name in row["datasets"]}),
        "commits": sorted({_commit(record) for record in provenance}),
        "newest": newest.get("finished", "")[:10],
        "versions": newest.get("versions", {}),
        "n_failed": sum(paper["n_failed"] for paper in papers),
        "damaged": damaged,
        "not_run": Verdict.NOT_RUN,
        "margin": MARGIN,
        "min_seeds": MIN_SEEDS,
    }


def _drawn(preset: str, paper: str) -> list[dict[str, Any]]:
    """The notebooks of a paper with what they drew."""
    return [
        {
            "name": notebook.name,
            "title": notebook.title,
            "state": notebook.state,
            "outputs": [_with_claims(output) for output in notebook.outputs()],
        }
        for notebook in notebooks_of(preset, [paper])
    ]


def _with_claims(output: dict[str, Any]) -> dict[str, Any]:
    """The description of a figure or table, its claims as such again."""
    claims = [Claim(**{**c, "verdict": Verdict(c["verdict"])}) for c in output["claims"]]
    return {**output, "claims": claims, "size": _size(output)}


def _paper(
    preset: str,
    content: Manifest,
    notebooks: Sequence[dict[str, Any]],
    headlines: Sequence[Claim],
    runs: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What the pages say of one paper."""
    outputs = [output for notebook in notebooks for output in notebook["outputs"]]
    drawn = [output for output in outputs if output["files"]]
    counts = collections.Counter(claim.verdict for claim in headlines)
    seeds = [n for row in runs for n in row["n"] if n]
    left = sum(row["seconds_left"] for row in runs)
    return {
        "key": content.paper,
        "file": f"{content.paper}.html",
        "title": content.title,
        "citation": content.citation,
        "claim": content.claim,
        "verdict": _deciding(content, outputs),
        "counts": {verdict: counts[verdict] for verdict in Verdict},
        "n_claims": sum(counts.values()),
        "against": [claim for claim in headlines if claim.verdict in _AGAINST],
        "picture": _picture(content, [o for o in drawn if o["kind"] == "figure"]),
        "notebooks": sorted(notebooks, key=lambda notebook: _rank(content, notebook)),
        "n_notebooks": len(notebooks),
        "n_figures": sum(output["kind"] == "figure" for output in drawn),
        "n_tables": sum(output["kind"] == "table" for output in drawn),
        "n_failed": sum(notebook["state"].get("status") == "failed" for notebook in notebooks),
        "not_drawn": len(drawn) < len(outputs) or any(not n["outputs"] for n in notebooks),
        "totals": _totals(runs),
        "n_seeds": f"n = {_span(seeds)}" if seeds else "",
        "took": forecast.in_words(sum(row["seconds"] for row in runs)),
        "left": forecast.in_words(left),
        "command": f"make reproduce-figures PRESET={preset} PAPER={content.paper}",
    }


def _deciding(content: Manifest, outputs: Iterable[dict[str, Any]]) -> Claim | None:
    """The claim that stands for the paper; None where this preset has nothing of it."""
    wanted = content.claim
    if wanted is None or wanted.entry is None:
        return None
    candidates = [
        claim
        for output in outputs
        for claim in output["claims"]
        if (claim.experiment, claim.entry) == (wanted.experiment, wanted.entry)
        and wanted.metric in (None, claim.metric)
        and claim.is_planned
        and claim.n
        and (claim.is_ordering or claim.published is not None)
    ]
    return next(iter(_headlines(_unique(candidates))), None)


def _rank(content: Manifest, notebook: Mapping[str, Any]) -> int:
    """Its place on the page of its paper: the figure that stands for the paper, what shows runs of
    ours, what shows the published alone, what shows nothing.
    """
    outputs = notebook["outputs"]
    if content.claim and any(output["name"] == content.claim.figure for output in outputs):
        return 0
    if any(any(output["n"].values()) for output in outputs):
        return 1
    return 2 if any(output["files"] for output in outputs) else 3


def _picture(content: Manifest, figures: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """The figure that stands for a paper, small, as a data address; None where none is drawn."""
    from PIL import Image

    wanted = content.claim.figure if content.claim else None
    chosen = sorted(figures, key=lambda figure: figure["name"] != wanted)
    if not chosen:
        return None
    buffer = io.BytesIO()
    with Image.open(chosen[0]["path"].with_suffix(".webp")) as picture:
        picture.thumbnail(_PICTURE)
        picture.save(buffer, "webp", quality=75)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"source": f"data:image/webp;base64,{encoded}", "words": _words(chosen[0])}


def _size(output: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of a figure on the page; None for a table."""
    if "webp" not in output["files"]:
        return None
    from PIL import Image

    from bioplaus.analysis import style

    with Image.open(output["path"].with_suffix(".webp")) as picture:
        width, height = (round(length * _SHOWN_DPI / style.DPI) for length in picture.size)
    return width, height


def _words(output: dict[str, Any]) -> str:
    """A figure in words: its title, and where its lines end."""
    ends: dict[str, Claim] = {}
    for claim in output["claims"]:
        if claim.ours is not None and not claim.is_ordering:
            ends[claim.label] = max(claim, ends.get(claim.label, claim), key=lambda one: one.x)
    lines = []
    for label, claim in [*ends.items()][:_MOST_WORDS]:
        digits = tables.digits_of(claim.metric)
        text = f"{label} {tables.number(claim.ours, digits=digits)} at {claim.axis} {claim.x}"
        if claim.published is not None:
            text += f" (published {tables.number(claim.published, digits=digits)})"
        lines.append(text)
    return ": ".join(filter(None, [output["title"], "; ".join(lines)]))


def _unique(claims: Iterable[Claim]) -> list[Claim]:
    """Each claim once; what is a point on the way in one figure may be the primary value of a
    table.
    """
    unique: dict[tuple[Any, ...], Claim] = {}
    for claim in claims:
        key = (claim.paper, claim.experiment, claim.entry, claim.metric, claim.axis, claim.x)
        if key not in unique or (claim.is_primary and not unique[key].is_primary):
            unique[key] = claim
    return list(unique.values())


def _run_counts(run_set: RunSet) -> dict[str, Any]:
    """How the runs of an experiment ended; a missing one whose last attempt failed counts as
    failed, with its error.
    """
    states, errors = dict(run_set.status), {}
    for run in run_set.runs:
        last = _results.read_run(run.folder) if states[run.id] == "missing" else {}
        if last.get("status") == "failed":
            states[run.id], errors[run.id] = "failed", last.get("error", "")
    records = {outcome.run["id"]: outcome.run for outcome in run_set.outcomes}
    left = {run.id: run.seconds or 0 for run in run_set.runs if run.id not in records}
    return {
        "paper": run_set.paper,
        "experiment": run_set.experiment,
        "title": run_set.title,
        "datasets": run_set.datasets,
        "planned": len(states),  # a run that two entries share is one
        **{state: list(states.values()).count(state) for state in _STATES},
        "errors": errors,
        "entries": run_set.overview().to_dict("records"),
        "n": [run_set.count(entry, "done") for entry in run_set.entries],
        "records": list(records.values()),
        "seconds": sum(map(forecast.seconds_of, records.values())),
        "seconds_left": sum(left.values()),
        "command": run_set.provenance.command,
    }


def _totals(runs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    runs = list(runs)
    return {state: sum(row[state] for row in runs) for state in ("planned", *_STATES)}


def _headlines(claims: Iterable[Claim]) -> list[Claim]:
    """The primary claims: of each entry and metric beside a published value the last that was
    compared, else the last published one; every ordering.
    """
    chosen: dict[tuple[Any, ...], Claim] = {}
    for claim in claims:
        if not claim.is_primary:
            continue
        key = (claim.paper, claim.experiment, claim.entry, claim.metric)
        key += (claim.x,) if claim.is_ordering else ()
        other = chosen.get(key)
        if other is None or (claim.n > 0, claim.x) > (other.n > 0, other.x):
            chosen[key] = claim
    return list(chosen.values())


def _counts(
    claims: list[Claim], words: tuple[Verdict, ...], *, are_orderings: bool
) -> dict[str, int]:
    counts = collections.Counter(c.verdict for c in claims if c.is_ordering == are_orderings)
    return {str(word): counts[word] for word in words}


def _span(numbers: Sequence[int]) -> str:
    """`3`, or `2 to 10`."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _commit(run: Mapping[str, Any]) -> str:
    commit = run.get("commit")
    if not commit:
        return "unknown commit"
    return f"{commit[:10]}{' with changes' if run.get('dirty') else ''}"


def _link(output: dict[str, Any], suffix: str) -> str:
    """A file beside a description, as seen from a page."""
    path = output["path"]
    return f"../{path.parent.name}/{path.stem}.{suffix}"
