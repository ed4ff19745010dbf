"""Learning rules, one file each; the file name is the rule's key in manifests, notebooks and
results.

A rule file defines `Config` and `Rule`; this module finds it by its name alone, so adding a rule is
adding a file. Files that start with an underscore are shared parts, not rules.
"""

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bioplaus import _sources
from bioplaus import device as _device
from bioplaus.config import Config
from bioplaus.errors import BioplausError, describe, location, unknown
from bioplaus.rules._base import BenchmarkCase, LearningRule
from bioplaus.tasks import Spec

__all__ = [
    "BenchmarkCase",
    "Config",
    "LearningRule",
    "check_unedited",
    "code",
    "config",
    "get",
    "make",
    "names",
]

_imported: dict[
    str, tuple[ModuleSpec | None, dict[Path, str]]
] = {}  # by module: its import, and its sources then


def names() -> list[str]:
    """The keys of all rules, sorted; a hidden file is none."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name.isidentifier() and not name.startswith("_"))


def get(name: str) -> ModuleType:
    """The module of rule `name`, with its `Config` and `Rule`.

    Raises
    ------
    BioplausError
        If there is no such rule, where the nearest name is suggested, or its file cannot be
        imported or lacks one of the two; the place is named.
    """
    if name not in names():
        raise unknown("rule", name, names())
    sources = _sources.sources(name)  # before the import: an edit after it must show
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except BioplausError as error:
        raise BioplausError(f"rule {name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the file does
        raise BioplausError(
            f"rule {name} ({location(error) or f'{name}.py'}): {describe(error)}"
        ) from error
    try:
        _check_contract(name, module)
    except BioplausError:
        del sys.modules[module.__name__]  # so that it is read again once it is mended
        raise
    if sources and not _is_noted(module):
        _imported[module.__name__] = module.__spec__, sources
    return module


def code(rule: type[LearningRule]) -> str | None:
    """sha256 of the code that a rule runs (`_sources.code`): its files as they were when imported.

    None for a rule without a file, as one of a notebook.
    """
    module = sys.modules.get(rule.__module__)
    if module and _is_noted(module):
        return _sources.digest_of(_imported[module.__name__][1])
    source = getattr(module, "__file__", None)
    return _sources.code(Path(source)) if source else None


def check_unedited(name: str) -> None:
    """Raise `BioplausError` if a file of rule `name` was edited since it was imported: the older
    code would run.
    """
    module = sys.modules.get(f"{__name__}.{name}")
    if module and _is_noted(module):
        now = _sources.sources(name)
        for path, digest in _imported[module.__name__][1].items():
            if now.get(path) != digest:
                raise BioplausError(
                    f"{path.name} was edited since rule {name} was loaded from it; run the command"
                    " again."
                )


def config(name: str, values: Mapping[str, Any], spec: Spec | None = None) -> Config:
    """The checked `Config` of rule `name` from plain values, and checked against the task `spec` if
    one is given.
    """
    module = get(name)
    checked = module.Config.from_dict(values, kind=f"parameter of rule {name}")
    if spec is not None:
        module.Rule.check_task(checked, spec)
    return checked


def make(
    name: str,
    values: Mapping[str, Any] | None = None,
    spec: Spec | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LearningRule:
    """A new rule with freshly drawn weights.

    Parameters
    ----------
    name : key of the rule (`names()`).
    values : its `Config`, by name; what is left out keeps its default.
    spec : the task it will learn (`task.spec`); given, sizes are checked against it.
    seed : every draw of the rule (weights, nudge signs) comes from the stream (seed, "rule"), drawn
        on the CPU in float32 whatever device and dtype are used, so that the same seed starts from
        the same weights everywhere.
    """
    checked = config(name, values or {}, spec)
    return get(name).Rule(checked, _device.generator(seed, "rule")).to(device=device, dtype=dtype)


def _check_contract(name: str, module: ModuleType) -> None:
    """Raise `BioplausError` unless a rule's module has the `Rule` and `Config` that `get`
    promises.
    """
    bases = {
        "Rule": (LearningRule, "bioplaus.rules.LearningRule"),
        "Config": (Config, "bioplaus.config.Config"),
    }
    for wanted, (base, base_name) in bases.items():
        found = getattr(module, wanted, None)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise BioplausError(
                f"rule {name} ({name}.py): it must define a class {wanted} derived from"
                f" {base_name}."
            )
    made = vars(module.Config).get("__dataclass_params__")  # its own: its base has some, too
    if not (made and made.frozen):
        raise BioplausError(
            f"rule {name} ({name}.py): its Config must be a frozen dataclass; put "
            "@dataclasses.dataclass(frozen=True, kw_only=True) above it."
        )


def _is_noted(module: ModuleType) -> bool:
    """Whether the sources of a rule's module are noted, and it was not reloaded since, as
    autoreload does.
    """
    return module.__name__ in _imported and _imported[module.__name__][0] is module.__spec__
