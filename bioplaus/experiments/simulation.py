"""The parameterised notebooks in `Simulations/`: what they declare, whether parameters fit, and
running one in-process.

A simulation notebook is the only description of its parameters: the cell tagged `parameters`
declares names, types and defaults; the cell tagged `check` raises on values that cannot work,
without reading data. Both are read from here, so a sweep validates a whole manifest before a
kernel starts, and a new notebook needs no code in the package. Names and ranges of `device`,
`dtype`, `n_threads`, and of seeds and folders, which mean the same everywhere, are checked here.

A notebook declares `seeds: list` and `folders: list`, one network each, and can then execute
several runs at once; or `seed: int` and `folder: str`, of the one run that it executes
(`Simulation.inputs`).
"""

import ast
import dataclasses
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bioplaus import _files, paths, results
from bioplaus.config import Config, check_seed
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments.portable import portable

if TYPE_CHECKING:
    from bioplaus.tasks import Spec

_TYPES = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "list": list,
    "dict": dict,
    "None": type(None),
}


_EXECUTION = ("device", "n_threads")  # how a run is executed, and not what it is


class Training(NamedTuple):
    """A training of a run, for a forecast of what it costs.

    A check cell may leave a list of them, called `trainings`; else it is the one of the names
    below, where all are there.
    """

    rule: str
    config: Mapping[str, Any]
    spec: "Spec"  # of its task
    n_epochs: int
    batch_size: int


def names() -> list[str]:
    """The names of all simulation notebooks, sorted; a hidden file is none."""
    return sorted(path.stem for path in (paths.project_root() / "Simulations").glob("[!.]*.ipynb"))


@dataclasses.dataclass(frozen=True)
class Simulation:
    """One notebook of `Simulations/`."""

    name: str
    path: Path
    cells: tuple[tuple[frozenset[str], str], ...]  # (tags, source) of the code cells, in order
    parameters: type[Config]  # a Config with the declared names, types and defaults

    @property
    def rule(self) -> str | None:
        """The rule that runs where no parameter names one; None for a notebook that declares no
        `rule`.
        """
        return getattr(self.parameters(), "rule", None)

    @property
    def takes_seeds(self) -> bool:
        """Whether one execution can be of several runs, which differ in their seed."""
        return any(field.name == "seeds" for field in dataclasses.fields(self.parameters))

    def inputs(self, runs: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> dict[str, Any]:
        """What the notebook is executed with, in the form that it declares.

        Parameters
        ----------
        runs : the parameters and `seed` of each run; they differ in their seed only.
        folders : one each.

        Raises
        ------
        BioplausError
            For several runs of a notebook that executes one.
        """
        if not self.takes_seeds:
            if len(runs) > 1:
                raise BioplausError(
                    f"{self.path.name} declares `seed`, not `seeds`: it executes one run, not"
                    f" {len(runs)}."
                )
            return {**runs[0], "folder": folders[0]}
        common = {name: value for name, value in runs[0].items() if name != "seed"}
        return {**common, "seeds": [run["seed"] for run in runs], "folders": [*folders]}

    def check_types(self, values: Mapping[str, Any]) -> None:
        """Raise `BioplausError` unless the declared parameters among `values`, as the names of a
        notebook (`globals()`), have their declared types.

        For a notebook that another program gave parameters: papermill's `-p n_epochs 1.0` and `-r
        n_epochs 3` give a float and a text.
        """
        names = (field.name for field in dataclasses.fields(self.parameters))
        given = {name: values[name] for name in names if name in values}
        self._values(given)

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Raise `BioplausError` unless the notebook can run with these parameters; the names that
        its check left behind.
        """
        from bioplaus import device  # here, so that the command line need not wait for torch

        namespace = self._values(values)
        device.check(
            namespace.get("device", "auto"),
            namespace.get("dtype", "float32"),
            namespace.get("n_threads", 1),
        )
        for tags, source in self.cells:
            if "check" in tags:
                self._execute(source, "check", namespace)
        return namespace

    def begin(self, values: Mapping[str, Any]) -> None:
        """Begin the runs of a notebook that is executed by hand as a sweep begins its own: the
        folders say from the start which runs are in them, as `results.finish` asks for. Those that
        a sweep has begun stay as they are.

        Parameters
        ----------
        values : the names of the notebook (`globals()`), its parameters among them.

        Raises
        ------
        BioplausError
            For a folder that holds a complete run, or cannot be read or written.
        """
        given = {field.name: values[field.name] for field in dataclasses.fields(self.parameters)}
        if self.takes_seeds:
            seeds, folders = given.pop("seeds"), given.pop("folders")
        else:
            seeds, folders = [given.pop("seed", 0)], [given.pop("folder", "")]
        for seed, folder in zip(seeds, folders, strict=False):  # no folders: nothing is kept
            if folder:
                self._begin_one({**given, "seed": seed}, Path(folder).absolute())

    def _begin_one(self, parameters: dict[str, Any], folder: Path) -> None:
        if results.is_complete(folder):
            raise BioplausError(f"{folder} holds a complete run; choose another folder.")
        known = {"id": folder.name, "simulation": self.name, "seed": parameters["seed"]}
        known |= {"rule": parameters["rule"]} if "rule" in parameters else {}
        known["parameters"] = {
            name: value for name, value in portable(parameters).items() if name not in _EXECUTION
        }
        begun = results.read_run(folder)
        is_sweeps = "sweep" in begun and begun.get("status") == "running"
        if not is_sweeps and begun.get("parameters") != known["parameters"]:
            results.begin(folder, known)

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Execute the notebook's code in this process, without a kernel; the names it left behind.

        Cells tagged `show` are left out: they draw, and change no result.
        """
        namespace = self._values(values)
        for number, (tags, source) in enumerate(self.cells):
            if not tags & {"parameters", "show"}:
                self._execute(source, f"cell {number}", namespace)
        return namespace

    def _values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, checked, as a fresh dictionary to run code in."""
        checked = self.parameters.from_dict(values, kind=f"parameter of {self.name}").values()
        seeds = checked["seeds"] if self.takes_seeds else [checked.get("seed", 0)]
        for seed in seeds:
            check_seed(seed)
        if not seeds:
            raise BioplausError("seeds is [], but must hold at least one, as in [0].")
        folders = checked.get("folders", [])
        if len(folders) not in (0, len(seeds)) or not all(isinstance(f, str) for f in folders):
            raise BioplausError(
                f"folders is {folders!r:.100}, but must be empty or a list of texts, one for each"
                f" of the {len(seeds)} seeds."
            )
        return checked

    def _execute(self, source: str, cell: str, namespace: dict[str, Any]) -> None:
        exec(compile(source, f"{self.path.name} {cell}", "exec"), namespace)


def load(name: str) -> Simulation:
    """The simulation notebook called `name`.

    Raises
    ------
    BioplausError
        For an unknown name, or a notebook without a proper cell tagged `parameters`.
    """
    if name not in names():
        raise unknown("simulation", name, names())
    path = paths.project_root() / "Simulations" / f"{name}.ipynb"
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Simulation:
    """Read a notebook, again only after it `changed`."""
    content = _files.parse_json(_files.read(path) or b"", path)
    try:
        cells = tuple(
            (frozenset(cell["metadata"].get("tags", [])), "".join(cell["source"]))
            for cell in content["cells"]
            if cell["cell_type"] == "code"
        )
    except (AttributeError, KeyError, TypeError):
        raise BioplausError(f"{path.name} is no Jupyter notebook of format 4.") from None
    declared = [source for tags, source in cells if "parameters" in tags]
    if len(declared) != 1:
        raise BioplausError(
            f"{path.name} has {len(declared)} cells tagged `parameters`, but must have one."
        )
    return Simulation(path.stem, path, cells, _parameters(path.stem, path.name, declared[0]))


class _Parameters(Config):
    def values(self) -> dict[str, Any]:
        """The parameters by name, as a fresh dictionary to run code in."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _parameters(name: str, file: str, source: str) -> type[_Parameters]:
    """A Config class with the fields that a parameters cell declares as `name: type = literal`."""
    fields = [
        (target, hint, dataclasses.field(default_factory=lambda default=default: _copy(default)))
        for target, hint, default in _declarations(file, source)
    ]
    return dataclasses.make_dataclass(
        f"{name}_parameters", fields, bases=(_Parameters,), frozen=True, kw_only=True
    )


def _declarations(file: str, source: str) -> Iterator[tuple[str, Any, Any]]:
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise BioplausError(f"{file}: its cell `parameters` is not Python{line}.") from None
    for statement in statements:
        if not (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            raise BioplausError(
                f"{file}: a parameter is declared as `name: type = literal`, not"
                f" `{ast.unparse(statement)}`."
            )
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise BioplausError(
                f"{file}: the default of {statement.target.id} must be a literal, not"
                f" `{ast.unparse(statement.value)[:60]}`."
            ) from None
        yield statement.target.id, _hint(file, statement.annotation), default


def _hint(file: str, node: ast.expr) -> type | types.UnionType:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _hint(file, node.left) | _hint(file, node.right)
    name = ast.unparse(node)
    if name not in _TYPES:
        raise unknown("type of a parameter", name, _TYPES, file)
    return _TYPES[name]


def _copy(default: Any) -> Any:
    return json.loads(json.dumps(default))
