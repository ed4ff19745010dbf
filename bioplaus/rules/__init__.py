"""Learning rules, one file each; the file name is the rule's key in manifests, notebooks and results.

A rule file defines `Config` and `Rule`; this module finds it by its name alone, so adding a rule is adding a file.
Files that start with an underscore are shared parts, not rules.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from bioplaus import device as _device
from bioplaus.config import Config
from bioplaus.errors import unknown
from bioplaus.rules._base import BenchmarkCase, LearningRule
from bioplaus.tasks import Spec

__all__ = ["BenchmarkCase", "Config", "LearningRule", "config", "get", "make", "names"]


def names() -> list[str]:
    """The keys of all rules, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> ModuleType:
    """The module of rule `name`, with its `Config` and `Rule`.

    Raises
    ------
    BioplausError
        If there is no such rule; the nearest name is suggested.
    """
    if name not in names():
        raise unknown("rule", name, names())
    return importlib.import_module(f"{__name__}.{name}")


def config(name: str, values: Mapping[str, Any], spec: Spec | None = None) -> Config:
    """The checked `Config` of rule `name` from plain values, and checked against the task `spec` if one is given."""
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
    seed : every draw of the rule (weights, nudge signs) comes from the stream (seed, "rule"), drawn on the CPU in
        float32 whatever device and dtype are used, so that the same seed starts from the same weights everywhere.
    """
    checked = config(name, values or {}, spec)
    return get(name).Rule(checked, _device.generator(seed, "rule")).to(device=device, dtype=dtype)
