"""bioplaus: four papers on biologically plausible learning, reproducible from a notebook or one command.

`images.load("digits")` of `bioplaus.tasks` gives a task, `rules.make("ep", {...}, task.spec)` a learner,
`train.fit(learner, task, ...)` trains it, and `results.save(record, path)` keeps what came out. Importing bioplaus
needs torch and numpy only.
"""

from bioplaus import device, metrics, results, rules, tasks, train
from bioplaus.errors import BioplausError
from bioplaus.version import __version__

__all__ = ["__version__", "BioplausError", "device", "metrics", "results", "rules", "tasks", "train"]
