"""Hostile input: pickles, parameters and manifests that would run code, or leave their folder."""

import os
import pickle
import random
import time
import warnings
from pathlib import Path
from unittest import mock

import torch
from project import toy_project
from rows import row
from test_pickles import HOSTILE, PROTO, table

from bioplaus import _files, results, weights
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, sweep
from bioplaus.papers.hebbian import synapses


class _Runs:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _careless():
    """An unpickler that builds whatever is asked for."""
    return mock.patch.object(
        _files.Unpickler, "find_class", lambda self, *name: pickle.Unpickler.find_class(self, *name)
    )


def _holds(canary: Path, read) -> bool:
    try:
        read()
    except BioplausError as error:
        return not canary.exists() and "\n" not in str(error)
    return False


@row(
    "20 hostile pickle",
    "pickles that run code or forge arrays, in the place of every file: refused, nothing runs",
    300,
    n_small=40,
    guard_off=_careless,
)
def hostile_pickle(folder: Path, draw: random.Random) -> bool:
    canary = folder / "canary"
    runs = _Runs(f"touch {canary}")
    forged = [PROTO + table(value) + b"." for value in HOSTILE.values()]
    direct = [
        pickle.dumps(value, protocol)
        for value in (runs, {"schema": 1, "x": [runs]}, [{"a": (runs,)}])
        for protocol in range(6)
    ]
    content = draw.choice(draw.choice((forged, direct)))
    content = _files.seal(content) if draw.random() < 0.7 else content
    path = folder / draw.choice(("r.pkl", "result.pkl", weights.NAME, "w.npy", "mnist.pkl"))
    path.write_bytes(content)
    readers = {
        weights.NAME: lambda: weights.load(path),
        "w.npy": lambda: synapses.load(path),
        "mnist.pkl": lambda: results.collected(folder / "mnist"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the protocol
        return _holds(canary, readers.get(path.name, lambda: results.load(path)))


@row(
    "20b hostile tensors",
    "a network file whose pickle runs code, as torch.save writes it: refused, nothing runs",
    50,
    n_small=3,
    guard_off=lambda: mock.patch.object(
        torch, "load", lambda file, **_: _LOAD(file, weights_only=False)
    ),
    n_guard_off=3,
)
def hostile_tensors(folder: Path, draw: random.Random) -> bool:
    canary, path = folder / "canary", folder / weights.NAME
    torch.save({"rule": "bp", "config": {}, "state": _Runs(f"touch {canary}")}, path)
    path.write_bytes(_files.seal(path.read_bytes()))
    return _holds(canary, lambda: weights.load(path))


_LOAD = torch.load

CODE = "__import__('pathlib').Path('{canary}').touch()"
NAMES = [
    "value\n{code}",
    "value; {code}",
    "value = 1\n{code}\nx",
    "__builtins__",
    "__class__",
    "value.__class__",
    "config.__init__",
    "value#{code}",
    "val\u00fce",
    "\u202evalue",
    "value ",
    "",
    ".",
    "config..depth",
    "lambda: {code}",
    "{{{code}}}",
]
VALUES = [
    "'; {code}; '",
    '"""\n{code}\n"""',
    "\n{code}",
    "\\'\n{code}\n#",
    "{{{{ {code} }}}}",
    "${{{code}}}",
    "`{code}`",
    {"__reduce__": "{code}"},
    ["{code}"],
    float("nan"),
    float("inf"),
    10**400,
    True,
    None,
    "9" * 10_000,
]
PATHS = ["../../x", "/tmp/../x", "a/../../../b", "x\0y", "~root/x", "C:\\x", "n" * 300, "..", "CON"]


@row(
    "16-18 hostile parameters",
    "code, paths, absurd values as names, values, rules, data sets: refused or data, nothing runs",
    300,
    n_small=30,
)
def hostile_parameters(folder: Path, draw: random.Random) -> bool:
    canary = folder / "canary"
    code = CODE.format(canary=canary)
    fill = lambda text: text.format(code=code) if isinstance(text, str) else text  # noqa: E731
    match draw.choice(("name", "value", "path")):
        case "name":
            overrides = {fill(draw.choice(NAMES)): 1.0}
        case "value":
            name = draw.choice(("value", "rate", "dataset", "mishap", "steps", "config", "rule"))
            overrides = {name: fill(draw.choice(VALUES))}
        case "path":
            overrides = {draw.choice(("dataset", "rule", "mishap")): draw.choice(PATHS)}
    with toy_project(folder) as project:
        manifest.runs("smoke")  # keeps what the manifest says beside it
        before = sorted(path for path in folder.rglob("*"))
        try:
            runs = manifest.runs("smoke", overrides=overrides)
            sweep.check(runs)
            told = all(run.folder.resolve().is_relative_to(project) for run in runs)
        except BioplausError as error:
            told = bool(str(error)) and "Traceback" not in str(error)
        made = set(folder.rglob("*")) - set(before)
        return told and not canary.exists() and all("Results" in path.parts for path in made)


MANIFESTS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "paper: !!python/object/apply:os.system ['touch {canary}']",
    "paper: !!python/name:os.system",
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    + "".join(f"{chr(99 + i)}: &{chr(99 + i)} [{f'*{chr(98 + i)},' * 9}]\n" for i in range(9)),
    "paper: toy\npaper: toy",
    "- a list",
    "text",
    "",
    "a: {b0: &b0 {x: 1},\n"
    + "".join(f"b{i}: &b{i} {{<<: [{f'*b{i - 1},' * 9}]}},\n" for i in range(1, 9))
    + "}",
    "a: &a [*a]",
    "a: &a {<<: *a}",
    *(opening * 3000 for opening in ("[", "{", "[a: ", "- ", "? ", "{? ")),
    "[" * 3000 + "]" * 3000,
    "".join(f"{' ' * i}a:\n" for i in range(1000)),
    "".join(f"a{i}: &a{i} [{f'*a{i - 1}' * (i > 0)}]\n" for i in range(1000)),
    "\0",
    "a: *missing",
]


@row(
    "22 hostile manifest",
    "YAML with objects, bombs, depth, a wrong root, a key twice: a sentence within 1 s of a core",
    100,
    n_small=20,
)
def hostile_manifest(folder: Path, draw: random.Random) -> bool:
    canary = folder / "canary"
    with toy_project(folder) as project:
        path = project / "Simulations" / "manifests" / "toy.yaml"
        path.write_text(draw.choice(MANIFESTS).replace("{canary}", str(canary)))
        started = time.process_time()
        held = _holds(canary, lambda: manifest.runs("smoke"))
        return held and time.process_time() - started < 1
