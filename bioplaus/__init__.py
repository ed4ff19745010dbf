"""bioplaus: four papers on biologically plausible learning, reproducible from a notebook or one
command.

At a prompt:

    import bioplaus

    task = bioplaus.load("digits")
    rule = bioplaus.make("ep", {"n_units": [64, 100, 10]}, task.spec)
    history = bioplaus.fit(rule, task, n_epochs=5, batch_size=20)

`load`, `make` and `fit` are `tasks.images.load`, `rules.make` and `train.fit` by a shorter name,
and nothing else; `results.save(record, path)` keeps what came out. Importing bioplaus needs torch
and numpy only; its modules are imported when they are first used, so that drawing figures from
results does not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bioplaus import _sources
from bioplaus.errors import BioplausError
from bioplaus.version import __version__

if TYPE_CHECKING:
    from bioplaus import device, metrics, results, rules, tasks, train
    from bioplaus.rules import make
    from bioplaus.tasks.images import load
    from bioplaus.train import fit

__all__ = [
    "__version__",
    "BioplausError",
    "device",
    "fit",
    "load",
    "make",
    "metrics",
    "results",
    "rules",
    "tasks",
    "train",
]

_SHORT = {"fit": "train", "load": "tasks.images", "make": "rules"}  # where a short name is from

if _expected := os.environ.get(_sources.PACKAGE):  # a kernel: it runs the code of who started it
    _sources.check_package(_expected)


def __getattr__(name: str) -> Any:
    if name in _SHORT:
        return getattr(import_module(f"bioplaus.{_SHORT[name]}"), name)
    if name in __all__:
        return import_module(f"bioplaus.{name}")
    raise AttributeError(f"module 'bioplaus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
