"""Learning rules, one file each; the file name is the rule's key in manifests, notebooks and
results.

A rule file defines `Config` and `Rule`; this module finds it by its name alone, so adding a rule is
adding a file. Files that start with an underscore are shared parts, not rules. A rule's own file is
its equations in plain code; where speed pays, `_fast/<rule>.py` holds a subclass that computes the
same faster, which `make` then gives.
"""

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from bioplaus import _sources
from bioplaus import device as _device
from bioplaus.config import Config
from bioplaus.errors import BioplausError, describe, location, unknown
from bioplaus.rules import _fast
from bioplaus.rules._base import BenchmarkCase, LearningRule, Watch
from bioplaus.tasks import Spec

__all__ = [
    "BenchmarkCase",
    "Config",
    "LearningRule",
    "Watch",
    "check_unedited",
    "code",
    "config",
    "example",
    "get",
    "has_fast",
    "make",
    "names",
]


class _Import(NamedTuple):
    """The files of a rule as they were when its modules were imported."""

    specs: list[ModuleSpec | None]  # of the modules, the plain one first
    sources: dict[Path, str]


_imported: dict[str, _Import] = {}  # by rule


def names() -> list[str]:
    """The keys of all rules, sorted; a hidden file is none."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name.isidentifier() and not name.startswith("_"))


def __dir__() -> list[str]:
    return sorted(__all__)


def has_fast(name: str) -> bool:
    """Whether rule `name` has a fast form, `_fast/<name>.py`."""
    return name in (module.name for module in pkgutil.iter_modules(_fast.__path__))


def get(name: str) -> ModuleType:
    """The module of rule `name`, with its `Config` and its plain `Rule`.

    Raises
    ------
    BioplausError
        If there is no such rule, where the nearest name is suggested, or its file, or that of its
        fast form, cannot be imported or lacks what it must define; the file and line are named.
    """
    if name not in names():
        raise unknown("rule", name, names())
    sources = _sources.sources(name)  # before the import: an edit after it must show
    module = _import(f"rule {name}", f"{__name__}.{name}")
    _check_contract(name, module)
    modules = [module]
    if has_fast(name):
        modules.append(_import(f"fast form of rule {name}", f"{_fast.__name__}.{name}"))
        _check_fast(name, *modules)
    if sources and not _is_noted(name):
        _imported[name] = _Import([each.__spec__ for each in modules], sources)
    return module


def code(rule: type[LearningRule]) -> str | None:
    """sha256 of the code that a rule runs (`_sources.code`): its files as they were when imported,
    the same for both of its forms.

    None for a rule without a file, as one of a notebook.
    """
    name = rule.__module__.removeprefix(f"{_fast.__name__}.").removeprefix(f"{__name__}.")
    if _is_noted(name):
        return _sources.digest_of(_imported[name].sources)
    source = getattr(sys.modules.get(rule.__module__), "__file__", None)
    return _sources.code(Path(source)) if source else None


def check_unedited(name: str) -> None:
    """Raise `BioplausError` if a file of rule `name` was edited since it was imported: the older
    code would run.
    """
    if _is_noted(name):
        now = _sources.sources(name)
        for path, digest in _imported[name].sources.items():
            if now.get(path) != digest:
                raise BioplausError(
                    f"{path.name} was edited since rule {name} was loaded from it; run the command"
                    " again."
                )


def config(
    name: str,
    values: Mapping[str, Any],
    spec: Spec | None = None,
    *,
    batch_size: int | None = None,
) -> Config:
    """The checked `Config` of rule `name` from plain values, and checked against the task `spec`,
    and the size of its batches, if they are given.
    """
    module = get(name)
    checked = module.Config.from_dict(values, kind=f"parameter of rule {name}")
    if spec is not None:
        module.Rule.check_task(checked, spec)
        if batch_size is not None:
            spec.check_batch_size(batch_size, least=module.Rule.least_batch(checked))
    return checked


def make(
    name: str,
    values: Mapping[str, Any] | None = None,
    spec: Spec | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    plain: bool = False,
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
    plain : make the rule of its own file even where there is a fast form of it. Both start from
        the same weights, learn the same to rounding and load each other's state.
    """
    checked, module = config(name, values or {}, spec), get(name)
    if has_fast(name) and not plain:
        module = sys.modules[f"{_fast.__name__}.{name}"]
    with _device.float32_default():
        rule = module.Rule(checked, _device.generator(seed, "rule"))
    return rule.to(device=device, dtype=dtype)


def example(name: str) -> tuple[dict[str, Any], Spec]:
    """Config values of rule `name`, small enough for a test, and a task they fit: its own
    `example()`, or its default `n_units` cut to at most 12 units each.

    Raises
    ------
    BioplausError
        If it has neither.
    """
    module = get(name)
    if own := module.Rule.example():
        return own
    if not hasattr(module.Config(), "n_units"):
        raise BioplausError(f"rule {name} has no n_units: its Rule must give an example().")
    values = {"n_units": [min(width, 12) for width in module.Config().n_units]}
    return values, module.Rule.example_spec(config(name, values))


def _import(subject: str, path: str) -> ModuleType:
    """The module `path`, or one sentence of `subject` with the file and line of the mistake."""
    try:
        return importlib.import_module(path)
    except BioplausError as error:
        raise BioplausError(f"{subject}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the file does
        place = location(error) or f"{path.rpartition('.')[2]}.py"
        raise BioplausError(f"{subject} ({place}): {describe(error)}") from error


def _check_contract(name: str, module: ModuleType) -> None:
    """Raise `BioplausError` unless a rule's module has the `Rule` and `Config` that `get`
    promises; it is read again once it is mended.
    """
    bases = {
        "Rule": (LearningRule, "bioplaus.rules.LearningRule"),
        "Config": (Config, "bioplaus.config.Config"),
    }
    for wanted, (base, base_name) in bases.items():
        defined = getattr(module, wanted, None)
        if not (isinstance(defined, type) and issubclass(defined, base)):
            del sys.modules[module.__name__]
            raise BioplausError(
                f"rule {name} ({name}.py): it must define a class {wanted} derived from"
                f" {base_name}."
            )
    made = vars(module.Config).get("__dataclass_params__")  # its own: its base has some, too
    if not (made and made.frozen):
        del sys.modules[module.__name__]
        raise BioplausError(
            f"rule {name} ({name}.py): its Config must be a frozen dataclass; put "
            "@dataclasses.dataclass(frozen=True, kw_only=True) above it."
        )


def _check_fast(name: str, plain: ModuleType, fast: ModuleType) -> None:
    """Raise `BioplausError` unless the fast form of a rule derives from its plain one."""
    if not _derives(fast, plain):
        importlib.reload(fast)  # the plain one was read again, as autoreload does
    if not _derives(fast, plain):
        del sys.modules[fast.__name__]
        raise BioplausError(
            f"rule {name} (_fast/{name}.py): it must define a class Rule derived from that of"
            f" {name}.py."
        )


def _derives(fast: ModuleType, plain: ModuleType) -> bool:
    rule = getattr(fast, "Rule", None)
    return isinstance(rule, type) and rule is not plain.Rule and issubclass(rule, plain.Rule)


def _is_noted(name: str) -> bool:
    """Whether the sources of a rule are noted, and it was not imported again since, as autoreload
    does.
    """
    if name not in _imported:
        return False
    modules = [f"{__name__}.{name}", f"{_fast.__name__}.{name}"]
    specs = [sys.modules[each].__spec__ for each in modules if each in sys.modules]
    return len(specs) == len(_imported[name].specs) and all(
        spec is noted for spec, noted in zip(specs, _imported[name].specs, strict=True)
    )
