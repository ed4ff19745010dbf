"""One run: a simulation with parameters and a seed; what identifies it, and where it is kept."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bioplaus import paths
from bioplaus.errors import BioplausError
from bioplaus.experiments import files, simulation
from bioplaus.experiments.files import by_content


@dataclass(frozen=True)
class Run:
    """One execution of a simulation notebook."""

    paper: str
    experiment: str
    entry: str
    label: str
    preset: str
    simulation: str
    seed: int
    parameters: dict[str, Any]  # the notebook's parameters and `seed`; without folders
    published: dict[str, Any] | None
    seconds: float | None  # forecast, on one core
    # parameter -> id of a run of the same experiment
    needs: dict[str, str] = dataclasses.field(default_factory=dict)
    stated_rule: str | None = None  # the experiment's `rule`
    # of the manifest's seeds of this entry: how many were added after looking at the others
    n_seeds_added: int = 0
    # device, n_threads; empty: the notebook's
    execution: dict[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """`<rule>-<dataset>-s<seed>-<hash8>`; the hash is over simulation and parameters, the same
        everywhere; of a file that a parameter names, its content counts.
        """
        return id_of(
            self.simulation, self.parameters, entry=self.entry, seed=self.seed, files=self.files
        )

    @cached_property
    def files(self) -> dict[str, str]:
        """The sha256 of each file that a parameter names, by the parameter's dotted name; as it was
        when this was first asked for.
        """
        return files.digests(self.parameters)

    @property
    def rule(self) -> str | None:
        """The key of the rule that runs; None only where manifest and notebook know none (see
        `check`).
        """
        return self.parameters.get("rule", self.stated_rule)

    @property
    def inputs(self) -> dict[str, Any]:
        """What the notebook is executed with, folders aside (`Simulation.inputs`)."""
        return {**self.parameters, **self.execution}

    @property
    def key(self) -> str:
        """`<paper>/<experiment>/<entry>/<id>`: what `--only` is matched against."""
        return f"{self.paper}/{self.experiment}/{self.entry}/{self.id}"

    @property
    def experiment_folder(self) -> Path:
        """Where this run's experiment keeps its results."""
        return paths.root() / self.preset / self.paper / self.experiment

    @property
    def folder(self) -> Path:
        """Where this run keeps its result, record, notebook and checkpoint."""
        return self.experiment_folder / self.id

    @property
    def needed_folders(self) -> list[Path]:
        """The folders of the runs that this one needs."""
        return [self.experiment_folder / run_id for run_id in self.needs.values()]

    def check(self) -> None:
        """Raise `BioplausError`, naming manifest and entry, unless the simulation can run with
        these parameters.

        An entry says which rule it runs: it is not left to the default of the notebook, unawares.
        """
        try:
            notebook = simulation.load(self.simulation)
            if notebook.rule != self.rule and "rule" not in self.parameters:
                stated = (
                    f"the experiment says rule: {self.rule}" if self.rule else "it names no rule"
                )
                raise BioplausError(
                    f"{stated}, but {self.simulation} would run its default, {notebook.rule}; give"
                    " `rule` among the parameters of the entry."
                )
            notebook.check(notebook.inputs([self.inputs], [str(self.folder)]))
        except BioplausError as error:
            context = f"{self.paper}.yaml, {self.experiment}/{self.entry} at preset {self.preset}"
            raise type(error)(f"{context}: {error}") from None


def id_of(
    simulation: str,
    parameters: Mapping[str, Any],
    *,
    entry: str,
    seed: int,
    files: Mapping[str, str],
) -> str:
    """The id of a run (`Run.id`).

    Parameters
    ----------
    parameters : `seed` included.
    files : the sha256 of each file that a parameter names, by its dotted name.
    """
    known = by_content(parameters, files)
    canonical = json.dumps([simulation, known], sort_keys=True, separators=(",", ":"))
    words = [
        parameters.get("rule", entry),
        Path(str(parameters.get("dataset", simulation))).stem,
    ]
    clean = "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", str(word))[:40] for word in words)
    return f"{clean}-s{seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
