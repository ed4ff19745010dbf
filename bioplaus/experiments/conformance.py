"""Replay golden trajectories of published code through the rules of this package, and report the
error.

A golden is an `.npz` file: `meta` (JSON: paper, algorithm, hyperparameters, dtype, ...), `init.*`
and `data.*` (everything a short training run needs, draws included), `expect.*` (what the published
code computed). Each paper has one adapter, the module of this package named like the paper; a new
paper is a new module. An adapter defines

    rule_of(golden) -> str           key of the rule that belongs to the golden's algorithm
    replay(golden, make, dtype)      iterator of (key, value): what this package computes,
                                     every `expect.*` key once

and may define `tolerance(golden, key, dtype) -> (rtol, atol)`. `make(values, dtype=dtype)` gives
the rule to replay, as `rules.make` does, in the form that was asked for. The adapter must go the
way that training goes: `begin_epoch`, `fit_batch`, `predict`.
"""

import importlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bioplaus import rules
from bioplaus.device import DTYPES
from bioplaus.errors import BioplausError, unknown

TOLERANCE = {
    torch.float64: (0.0, 1e-9),
    torch.float32: (0.0, 5e-5),
}  # (relative, absolute); quantities are O(1)

Make = Callable[..., rules.LearningRule]  # make(values, dtype=dtype): a rule with these parameters


class Golden(Mapping[str, np.ndarray]):
    """The arrays of one golden file by key, read without ever running a pickle.

    Attributes
    ----------
    path : the file.
    meta : its description, from JSON.
    paper, algorithm : two of its entries.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {key: file[key] for key in file.files}
            self.meta: dict[str, Any] = json.loads(str(self._arrays.pop("meta")[()]))
            self.paper, self.algorithm = self.meta["paper"], self.meta["algorithm"]
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            IndexError,
            EOFError,
            RecursionError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
        ) as error:
            raise BioplausError(
                f"{path} is no golden file that can be read ({type(error).__name__}: {error})."
            ) from error

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._arrays:
            raise BioplausError(
                f"{self.path} has no {key!r}, which its algorithm {self.meta['algorithm']} needs."
            )
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def hyperparameter(self, name: str, *default: Any) -> Any:
        """The hyperparameter called `name`, or the default if one is given."""
        values = self.meta.get("hyperparameters", {})
        if name not in values and not default:
            raise BioplausError(f"{self.path} does not give the hyperparameter {name!r}.")
        return values.get(name, *default)

    def tensor(self, key: str, dtype: torch.dtype, *index: int) -> torch.Tensor:
        """Array `key` (at `index`) as a tensor: floats in `dtype`, integers as they are."""
        value = torch.from_numpy(np.array(self[key][index]))
        return value.to(dtype) if value.is_floating_point() else value

    def expected(self) -> list[str]:
        """Keys of everything the published code computed, in file order."""
        return [key for key in self if key.startswith("expect.")]


@dataclass(frozen=True)
class Report:
    """What replaying one file showed.

    Attributes
    ----------
    path, algorithm, rule : the file, the algorithm it names, and the rule that was replayed (""
        where unknown).
    ok : every expected key was computed and agrees.
    n_keys : keys compared.
    largest_error : largest absolute difference over all compared keys, in the quantities' own unit
        (dimensionless).
    first_key : first key, in the order of computation, that does not agree; "" if all do.
    problem : why it failed, in a sentence; "" if ok.
    """

    path: str
    algorithm: str = ""
    rule: str = ""
    ok: bool = False
    n_keys: int = 0
    largest_error: float = 0.0
    first_key: str = ""
    problem: str = ""

    def __str__(self) -> str:
        by = f" by rule {self.rule}" if self.rule else ""
        subject = f"{self.algorithm}{by}, " if self.algorithm or by else ""
        outcome = f"{self.n_keys} keys, largest error {self.largest_error:.1e}"
        problem = f". {self.problem}" if self.problem else ""
        return f"{'ok  ' if self.ok else 'FAIL'} {self.path}: {subject}{outcome}{problem}"


def adapters() -> list[str]:
    """Papers whose goldens can be replayed, sorted: the folders of `bioplaus.papers` with a module
    `golden`.
    """
    folder = Path(__file__).resolve().parents[1] / "papers"
    return sorted(path.parent.name for path in folder.glob("*/golden.py"))


def adapter(paper: str) -> ModuleType:
    """The adapter of `paper`, or an error naming those there are."""
    if paper not in adapters():
        raise unknown("paper of a golden file", paper, adapters())
    return importlib.import_module(f"bioplaus.papers.{paper}.golden")


def conform(
    paths: Iterable[str | Path],
    rule: str | None = None,
    dtype: str | None = None,
    *,
    plain: bool = False,
) -> list[Report]:
    """Replay every golden named by `paths`, folders searched through; one report a file, none
    skipped.

    Parameters
    ----------
    paths : golden files or folders of them. A path that does not exist, or a folder without
        goldens, is a failed report.
    rule : replay through this rule instead of the one that belongs to the algorithm: checks a
        variant.
    dtype : "float32" or "float64" instead of the dtype the file names.
    plain : replay through the plain forms of the rules instead of those that run.
    """
    reports = []
    for path in map(Path, paths):
        files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
        if not files:
            reports.append(Report(str(path), problem="The folder holds no golden (*.npz)."))
        reports += [_replay(file, rule, dtype, plain) for file in files]
    return reports


def render(reports: list[Report], *, as_json: bool = False) -> str:
    """The reports and their total as text, one line a file, or as JSON."""
    n_ok = sum(report.ok for report in reports)
    if as_json:
        return json.dumps(
            {
                "n_files": len(reports),
                "n_ok": n_ok,
                "files": [asdict(report) for report in reports],
            },
            indent=2,
        )
    return "\n".join([*map(str, reports), f"{n_ok} of {len(reports)} files conform."])


def _replay(path: Path, rule: str | None, dtype: str | None, plain: bool) -> Report:
    known: dict[str, Any] = {"path": str(path)}
    try:
        golden = Golden(path)
        known["algorithm"] = str(golden.meta["algorithm"])
        module = adapter(golden.meta["paper"])
        known["rule"] = rule or module.rule_of(golden)
        # a remark may follow it
        name = dtype or str(golden.meta.get("dtype", "float64")).partition(" ")[0]
        if name not in DTYPES:
            raise unknown("dtype", name, DTYPES)
        make = partial(rules.make, known["rule"], plain=plain)
        return _compare(golden, module, known, make, DTYPES[name])
    except Exception as error:  # a broken file or variant fails its own report and never the others
        problem = (
            str(error)
            if isinstance(error, BioplausError)
            else f"Replay stopped with {type(error).__name__}: {error}"
        )
        return Report(**known, problem=problem)


def _compare(
    golden: Golden, module: ModuleType, known: dict[str, Any], make: Make, dtype: torch.dtype
) -> Report:
    """Compare everything the adapter computes with the file, and see that neither has a key the
    other lacks.
    """
    tolerance = getattr(module, "tolerance", lambda golden, key, dtype: TOLERANCE[dtype])
    missing, first, problem, largest, n_keys = dict.fromkeys(golden.expected()), "", "", 0.0, 0
    for key, value in module.replay(golden, make, dtype):
        if key not in missing:
            raise BioplausError(
                f"{golden.path} has no {key!r}, which its algorithm {golden.meta['algorithm']} must"
                " give."
            )
        del missing[key]
        n_keys += 1
        error, trouble = _difference(value, golden[key], *tolerance(golden, key, dtype))
        largest = max(largest, error)
        if trouble and not first:
            first, problem = key, f"First difference: {key} {trouble}."
    if missing:
        first = first or next(iter(missing))
        some = ", ".join(list(missing)[:5])
        problem = f"{problem} Never computed: {some} ({len(missing)} keys).".strip()
    elif n_keys == 0:
        problem = "The file expects nothing: there is no expect.* key."
    return Report(
        **known,
        ok=not problem,
        n_keys=n_keys,
        largest_error=largest,
        first_key=first,
        problem=problem,
    )


def _difference(value: Any, expected: np.ndarray, rtol: float, atol: float) -> tuple[float, str]:
    """Largest absolute error, and what is wrong ("" if nothing): shapes must be equal, integers
    exactly so.
    """
    got = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if got.shape != expected.shape:
        return np.inf, f"has shape {got.shape}, expected {expected.shape}"
    if expected.dtype.kind not in "fc":
        wrong = int((got != expected).sum())
        return float(wrong > 0), f"differs in {wrong} of {expected.size} places" if wrong else ""
    if expected.size == 0:
        return 0.0, ""
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got.astype(np.float64) - expected))
    error = np.where(np.isnan(error), np.inf, error)
    worst = float(error.max())
    allowed = atol + rtol * np.abs(expected)
    wrong = error > np.where(np.isfinite(allowed), allowed, 0)
    return worst, f"by {worst:.2e}, allowed {atol:.0e}" if wrong.any() else ""
