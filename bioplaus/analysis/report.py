"""One page with all that the analysis notebooks drew, and all claims with their verdicts."""

import base64
import collections
import warnings
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
from bioplaus.experiments import manifest

__all__ = ["draw", "render"]  # the two steps of the command `report`

_STATES = ("done", "collapsed", "diverged", "failed", "missing")
_COMPARED = (Verdict.AGREES, Verdict.DIFFERS_SLIGHTLY, Verdict.DIFFERS, Verdict.UNDECIDED)
_ORDERED = (Verdict.HOLDS, Verdict.CONTRADICTED, Verdict.UNDECIDED)


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
        "with_n": tables.with_n,
        "difference": tables.difference,
        "verdict": tables.verdict,
        "digits": tables.digits_of,
        "image": _image,
        "link": _link,
    }
    page = environment.get_template("report.html.j2").render(_contents(preset))
    path = paths.root() / preset / "report" / "index.html"
    _files.make_folder(path.parent)
    _files.write_atomic(path, page.encode())
    return path


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
                "outputs": [_with_claims(output) for output in notebook.outputs()],
            }
            for notebook in notebooks_of(preset, [paper])
        ]
        sections.append(
            {
                "paper": paper,
                "title": described.title,
                "citation": described.citation,
                "notebooks": notebooks,
            }
        )
        for output in (output for notebook in notebooks for output in notebook["outputs"]):
            for claim in output["claims"]:
                key = (
                    claim.paper,
                    claim.experiment,
                    claim.entry,
                    claim.metric,
                    claim.axis,
                    claim.x,
                )
                # a point on the way in one figure may be the primary value of a table
                if key not in claims or (claim.is_primary and not claims[key].is_primary):
                    claims[key] = claim
        for experiment in described.experiments:
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
                provenance += [outcome.run for outcome in run_set.outcomes]
    newest = max(provenance, key=lambda run: run.get("finished", ""), default={})
    planned = [claim for claim in claims.values() if claim.is_planned]
    shown = [claim for claim in planned if claim.is_ordering or claim.published is not None]
    headlines = _headlines(shown)
    return {
        "preset": preset,
        "presets": manifest.PRESETS,
        "sections": sections,
        "runs": runs,
        "n_claims": len(shown),
        "headlines": headlines,
        "values": _counts(headlines, _COMPARED, are_orderings=False),
        "orderings": _counts(headlines, _ORDERED, are_orderings=True),
        "n_not_run": sum(claim.verdict is Verdict.NOT_RUN for claim in headlines),
        "totals": {state: sum(row[state] for row in runs) for state in ("planned", *_STATES)},
        "datasets": sorted({name for row in runs for name in row["datasets"]}),
        "commits": sorted({_commit(run) for run in provenance}),
        "newest": newest.get("finished", "")[:10],
        "versions": newest.get("versions", {}),
        "n_failed": sum(
            notebook["state"].get("status") == "failed"
            for section in sections
            for notebook in section["notebooks"]
        ),
        "damaged": damaged,
        "margin": MARGIN,
        "min_seeds": MIN_SEEDS,
    }


def _with_claims(output: dict[str, Any]) -> dict[str, Any]:
    """The description of a figure or table, its claims as such again."""
    claims = [Claim(**{**c, "verdict": Verdict(c["verdict"])}) for c in output["claims"]]
    return {**output, "claims": claims}


def _run_counts(run_set: RunSet) -> dict[str, Any]:
    """How the runs of an experiment ended; a missing one whose last attempt failed counts as
    failed, with its error.
    """
    states, errors = dict(run_set.status), {}
    for run in run_set.runs:
        last = _results.read_run(run.folder) if states[run.id] == "missing" else {}
        if last.get("status") == "failed":
            states[run.id], errors[run.id] = "failed", last.get("error", "")
    return {
        "paper": run_set.paper,
        "experiment": run_set.experiment,
        "title": run_set.title,
        "datasets": run_set.datasets,
        "planned": len(states),  # a run that two entries share is one
        **{state: list(states.values()).count(state) for state in _STATES},
        "errors": errors,
        "entries": run_set.overview().to_dict("records"),
        "command": run_set.provenance.command,
    }


def _headlines(claims: list[Claim]) -> list[Claim]:
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


def _commit(run: dict[str, Any]) -> str:
    commit = run.get("commit")
    if not commit:
        return "unknown commit"
    return f"{commit[:10]}{' with changes' if run.get('dirty') else ''}"


def _link(output: dict[str, Any], suffix: str) -> str:
    """A file beside a description, as seen from the page."""
    path = output["path"]
    return f"../{path.parent.name}/{path.stem}.{suffix}"


def _image(output: dict[str, Any]) -> str:
    """A figure's png as a data address."""
    content = output["path"].with_suffix(".png").read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()
