"""Commands that list data sets and fetch them."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from bioplaus.cli import options
from bioplaus.cli.output import print_table, say
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, simulation

app = typer.Typer(no_args_is_help=True, help="Find, download and check data sets.")


@app.command("list", cls=options.Command)
def list_sets() -> None:
    """List the data sets, and where each was found."""
    from bioplaus.tasks import datasets

    print_table([row._asdict() for row in datasets.catalogue()])


@app.command(cls=options.Command)
def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="As `data list` names them; or give --preset.", autocompletion=options.data_sets
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Get what the runs of this preset need.", autocompletion=options.presets),
    ] = None,
    paper: options.Paper = None,
) -> None:
    """Download data sets, with progress and checksums; what cannot be downloaded is said in the end
    (exit code 1).
    """
    from bioplaus.tasks import datasets

    if not names and preset is None:
        raise BioplausError(
            "data get needs the name of a data set, or --preset; `data list` shows the names."
        )
    for name in names or []:
        say(f"{name}: {datasets.get(name)}")
    missing = {}
    runs = options.selected_runs(preset, paper) if preset is not None else []
    for name, fetch in _needed(runs).items():
        try:
            say(f"{name}: {fetch()}")
        except BioplausError as error:
            missing[name] = error
    for name, error in missing.items():
        say(f"missing {name}: {error}")
    if missing:
        raise typer.Exit(1)


def _needed(runs: list[manifest.Run]) -> dict[str, Callable[[], str]]:
    """What runs read from disk, by name, and the calls that fetch it or say why not."""
    from bioplaus.tasks import captions, datasets

    needed: dict[str, Callable[[], str]] = {}
    for run in runs:
        name = run.parameters.get("dataset")
        if name in datasets.names():
            needed[name] = partial(datasets.get, name)
        elif run.simulation == "captions":
            notebook = simulation.load(run.simulation)
            declared = notebook.parameters.from_dict(notebook.inputs([run.inputs], [""]))
            needed |= captions.needed(declared.dataset, declared.encoder)
    return needed
