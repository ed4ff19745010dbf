"""The options that several commands share, and what their texts mean."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest
from bioplaus.experiments.manifest import reading


def presets() -> list[str]:
    """What a shell completes --preset to."""
    return list(manifest.PRESETS)


def papers() -> list[str]:
    """What a shell completes --paper to."""
    return manifest.papers()


def rule_names() -> list[str]:
    """What a shell completes the name of a rule to."""
    from bioplaus import rules

    return rules.names()


def data_sets() -> list[str]:
    """What a shell completes the name of a data set to."""
    from bioplaus.tasks import datasets

    return datasets.names()


Preset = Annotated[
    str, typer.Option(help=f"One of: {', '.join(manifest.PRESETS)}.", autocompletion=presets)
]
Paper = Annotated[
    str | None, typer.Option(help="One paper's key; all papers without it.", autocompletion=papers)
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="A run id, or a glob over paper/experiment/entry/id or a part of it; may be repeated."
    ),
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
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Take runs made elsewhere from this folder and those below it, and check them.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, help="Processes at once, one thread each; 0: one per GPU on GPUs, else one per core."
    ),
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
SideBySide = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Seeds of an entry that one worker runs at the same time, with the same results as"
        " alone; default: 16 on a GPU, 1 elsewhere.",
    ),
]
Kernel = Annotated[str, typer.Option(help="Jupyter kernel that executes the notebooks.")]
Again = Annotated[
    bool, typer.Option("--again", help="Also run again what was made with other code of its rule.")
]


class Command(TyperCommand):
    """A command that refuses an option given twice, where the first would be dropped silently."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in self.params:
            may_repeat = option.nargs != 1 or getattr(option, "multiple", False)
            is_flag = getattr(option, "is_flag", False)
            if not may_repeat and not is_flag and given.count(option) > 1:
                raise BioplausError(f"{option.opts[0]} is given twice; leave one.")
        return super().parse_args(ctx, args)


def use_results_folder(folder: Path | None) -> None:
    """Keep results in `folder` from now on; None keeps the folder that is set."""
    if folder is None:
        return
    try:
        os.environ["BIOPLAUS_RESULTS"] = str(folder.expanduser().resolve())
    except (OSError, RuntimeError) as error:  # a circle of links; ~ of nobody
        raise BioplausError(f"--results is {str(folder)!r}: {error}.") from error


def selected_runs(
    preset: str,
    paper: str | None,
    only: list[str] | None = None,
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
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            raise BioplausError(
                f"--set is {pair!r}, but must be name=value, as in n_epochs=5 or config.lr=1e-3."
            )
        if name in settings:
            raise BioplausError(f"--set gives {name} twice; leave one.")
        settings[name] = reading.parse_yaml(value, f"--set {name}")
    return settings
