"""Manifests: which simulations a paper consists of, and their expansion into runs with stable ids.

`Simulations/manifests/<paper>.yaml` lists experiments; an experiment lists entries (one rule with
its published parameters each), seeds, and what the presets change. Parameters are merged in this
order, later ones winning:

    experiment < entry < grid point < experiment's preset < entry's preset < --set

Nested tables (a rule's `config`) are merged name by name, everything else is replaced. The preset
`paper` is the manifest as it stands; an experiment or entry runs at another preset only if it names
it (an entry inherits its experiment's presets and leaves one with `false`).

The number of seeds is fixed here before a run. Where some were added after results of the others
had been looked at, a preset says how many: `n_seeds_added: 7`. Tables repeat it.

What decides how a run is executed and not what it is (`device`, `n_threads`) is no parameter of a
manifest and no part of an id, nor are seeds and folders: options of the command line give them.

An entry may need others of its experiment, with the same seed: `needs: {checkpoints.left: fine}`
puts the id of the run of entry `fine` into the parameter `checkpoints.left`. The simulation finds
that run's files in the folder of that name beside its own. An id so depends on the ids of
everything a run is built from.
"""

from bioplaus.experiments.manifest.expansion import runs
from bioplaus.experiments.manifest.model import PRESETS, Entry, Experiment, Manifest
from bioplaus.experiments.manifest.reading import load, papers
from bioplaus.experiments.run import Run

__all__ = ["PRESETS", "Entry", "Experiment", "Manifest", "Run", "load", "papers", "runs"]
