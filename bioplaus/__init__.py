"""bioplaus: four papers on biologically plausible learning, reproducible from a notebook or one
command.

`images.load("digits")` of `bioplaus.tasks` gives a task, `rules.make("ep", {...}, task.spec)` a
learner, `train.fit(learner, task, ...)` trains it, and `results.save(record, path)` keeps what came
out. Importing bioplaus needs torch and numpy only; its modules are imported when they are first
used, so that drawing figures from results does not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bioplaus import _sources
from bioplaus.errors import BioplausError
from bioplaus.version import __version__

if TYPE_CHECKING:
    from bioplaus import device, metrics, results, rules, tasks, train

__all__ = [
    "__version__",
    "BioplausError",
    "device",
    "metrics",
    "results",
    "rules",
    "tasks",
    "train",
]

if _expected := os.environ.get(_sources.PACKAGE):  # a kernel: it runs the code of who started it
    _sources.check_package(_expected)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"bioplaus.{name}")
    raise AttributeError(f"module 'bioplaus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
