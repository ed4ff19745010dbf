"""The options that several commands share, and what their texts mean."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

Preset = Annotated[str, typer.Option(help=f"One of: {', '.join(manifest.PRESETS)}.")]
Paper = Annotated[str | None, typer.Option(help="One paper's key; all papers without it.")]
Only = Annotated[
    str | None,
    typer.Option(help="A run id, or a glob over paper/experiment/entry/id or a part of it."),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="name=value, for every run; may be repeated.")
]
Seeds = Annotated[
    str | None, typer.Option(help="Seeds instead of the manifest's, as in 1,2; each is run once.")
]
Results = Annotated[
    Path | None, typer.Option("--results", help="Folder for results instead of Results.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Runs at once, one thread each, sharing a GPU; 0: one per core.")
]
Scheduler = Annotated[
    str, typer.Option(help="local, a dask-jobqueue system (slurm, ...), or tcp://host:port.")
]
Inline = Annotated[
    bool, typer.Option("--inline", help="Run in this process, without papermill and Dask.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where runs compute: cpu, cuda, cuda:1, auto (a GPU if there is one); default: cpu."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Compute threads of each run (1); they change the last bits; see --workers."
    ),
]
Kernel = Annotated[str, typer.Option(help="Jupyter kernel that executes the notebooks.")]
Again = Annotated[
    bool, typer.Option("--again", help="Also run again what was made with other code of its rule.")
]


def use_results_folder(folder: Path | None) -> None:
    """Keep results in `folder` from now on; None keeps the folder that is set."""
    if folder is not None:
        os.environ["BIOPLAUS_RESULTS"] = str(folder.expanduser().resolve())


def selected_runs(
    preset: str,
    paper: str | None,
    only: str | None = None,
    setting: list[str] | None = None,
    seeds: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> list[manifest.Run]:
    """The runs that the options of a command select."""
    given = {"device": device, "n_threads": threads}
    return manifest.runs(
        preset,
        [paper] if paper else None,
        only,
        _parse_seeds(seeds),
        _parse_settings(setting or []),
        execution={name: value for name, value in given.items() if value is not None},
    )


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BioplausError(
            f"--seeds is {text!r}, but must be whole numbers with commas between, as in 1,2."
        ) from None


def _parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Values are read as YAML 1.2, as in a manifest: 1e-4 is a number, [8, 4] a list, true a truth
    value.
    """
    from ruamel.yaml import YAML, YAMLError

    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            raise BioplausError(
                f"--set is {pair!r}, but must be name=value, as in n_epochs=5 or config.lr=1e-3."
            )
        try:
            settings[name] = YAML(typ="safe", pure=True).load(value)
        except (YAMLError, RecursionError):
            raise BioplausError(f"--set {name}: the value {value!r} is not valid YAML.") from None
    return settings
