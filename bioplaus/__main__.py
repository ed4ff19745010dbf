"""The command line: `python -m bioplaus <command>`; every command says what it does with
`--help`.
"""

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bioplaus import paths, results
from bioplaus.errors import BioplausError
from bioplaus.experiments import engine, manifest

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=__doc__,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Find, download and check data sets.")
app.add_typer(data_app, name="data")
INTERRUPTED = 130  # exit code after Ctrl-C
# brackets in a message are brackets
console = Console(soft_wrap=True, highlight=False, markup=False)

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


@app.command()
def run(
    preset: Preset = "quick",
    paper: Paper = None,
    only: Only = None,
    setting: Setting = None,
    seeds: Seeds = None,
    results_folder: Results = None,
    device: Device = None,
    threads: Threads = None,
    workers: Workers = 0,
    scheduler: Scheduler = "local",
    inline: Inline = False,
    kernel: Kernel = "python3",
    again: Again = False,
) -> None:
    """Run simulations that are not done yet, and show how each ended."""
    _use(results_folder)
    _run(
        _runs(preset, paper, only, setting, seeds, device, threads),
        workers,
        scheduler,
        inline,
        kernel,
        again,
    )


@app.command()
def reproduce(
    preset: Preset = "quick",
    paper: Paper = None,
    only: Only = None,
    results_folder: Results = None,
    device: Device = None,
    threads: Threads = None,
    workers: Workers = 0,
    scheduler: Scheduler = "local",
    kernel: Kernel = "python3",
    again: Again = False,
) -> None:
    """Run what is missing, draw every figure and table, and write the report page."""
    _use(results_folder)
    failure = None
    try:
        _run(
            _runs(preset, paper, only, device=device, threads=threads),
            workers,
            scheduler,
            False,
            kernel,
            again,
        )
    except BioplausError as error:
        if error.exit_code != 1:
            raise
        failure = error  # some runs failed: draw the others, then say so
    # drawing is done here, whatever a cluster can take
    _draw(preset, paper, workers if scheduler == "local" else 0)
    if failure:
        raise failure


@app.command()
def report(
    preset: Preset = "quick",
    paper: Paper = None,
    results_folder: Results = None,
    workers: Workers = 0,
) -> None:
    """Draw figures and tables from the results there are, and write the report page."""
    _use(results_folder)
    _draw(preset, paper, workers)


@app.command()
def status(
    preset: Preset = "quick",
    paper: Paper = None,
    only: Only = None,
    setting: Setting = None,
    seeds: Seeds = None,
    results_folder: Results = None,
) -> None:
    """List every run of a preset: done, running, interrupted, failed or missing."""
    _use(results_folder)
    runs = _runs(preset, paper, only, setting, seeds)
    known = engine.finished(runs)
    rows = engine.status(runs, known)
    console.print(f"Preset {preset}:")
    _table(rows)
    counts = {
        state: sum(row["status"] == state for row in rows)
        for state in dict.fromkeys(r["status"] for r in rows)
    }
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    _tell_of_code(runs, known)


@app.command()
def collect(preset: Preset = "desk", paper: Paper = None, results_folder: Results = None) -> None:
    """Put all complete runs of each experiment into one small file beside its folder."""
    _use(results_folder)
    for folder in dict.fromkeys(run.experiment_folder for run in _runs(preset, paper)):
        if path := results.collect(folder):
            console.print(
                f"{path}: {len(results.collected(folder))} runs, {path.stat().st_size:,} bytes"
            )


@app.command()
def conform(
    paths: Annotated[list[Path], typer.Argument(help="Golden files, or folders of them.")],
    rule: Annotated[
        str | None, typer.Option(help="Replay through this rule instead of the published one.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Replay through the plain forms of the rules.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay golden trajectories of the published code through the package's rules; exit 1 if any
    differs.
    """
    from bioplaus.experiments import conformance

    reports = conformance.conform(paths, rule=rule, plain=plain)
    typer.echo(conformance.render(reports, as_json=json))
    if not all(found.ok for found in reports):
        raise typer.Exit(1)


@app.command()
def benchmark(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rules; all that state a published size without it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds of measurement.")] = 9,
    plain: Annotated[
        bool, typer.Option("--plain", help="Time the plain form beside the one that runs.")
    ] = False,
) -> None:
    """Time one training step of each rule on one thread, against this machine's matrix product."""
    from bioplaus.experiments import benchmark as measuring

    rows = measuring.run(
        names or None, rounds=rounds, plain=plain, report=partial(typer.echo, err=True)
    )
    typer.echo(measuring.render(rows, as_json=json))


@app.command()
def doctor(results_folder: Results = None) -> None:
    """Check the installation; every line that is not fine says what to do."""
    from bioplaus.experiments import doctor as checking

    _use(results_folder)
    if not checking.show(console):
        raise typer.Exit(1)


@data_app.command("list")
def data_list() -> None:
    """List the data sets, and where each was found."""
    from bioplaus.tasks import datasets as data

    _table([row._asdict() for row in data.catalogue()])


@data_app.command("get")
def data_get(
    names: Annotated[
        list[str] | None, typer.Argument(help="As `data list` names them; or give --preset.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Get what the runs of this preset need.")
    ] = None,
    paper: Paper = None,
) -> None:
    """Download data sets, with progress and checksums; what cannot be downloaded is said in the end
    (exit code 1).
    """
    from bioplaus.tasks import datasets as data

    if not names and preset is None:
        raise BioplausError(
            "data get needs the name of a data set, or --preset; `data list` shows the names."
        )
    for name in names or []:
        console.print(f"{name}: {data.get(name)}")
    missing = {}
    for name, get in _needed(_runs(preset, paper) if preset is not None else []).items():
        try:
            console.print(f"{name}: {get()}")
        except BioplausError as error:
            missing[name] = error
    for name, error in missing.items():
        console.print(f"missing {name}: {error}")
    if missing:
        raise typer.Exit(1)


def _needed(runs: list[manifest.Run]) -> dict[str, Callable[[], str]]:
    """What runs read from disk, by name, and the calls that fetch it or say why not."""
    from bioplaus.experiments import simulation
    from bioplaus.tasks import captions
    from bioplaus.tasks import datasets as data

    found: dict[str, Callable[[], str]] = {}
    for run in runs:
        name = run.parameters.get("dataset")
        if name in data.names():
            found[name] = partial(data.get, name)
        elif run.simulation == "captions":
            declared = simulation.load(run.simulation).parameters.from_dict(run.inputs)
            found |= captions.needed(declared.dataset, declared.encoder)
    return found


def _table(rows: list[dict[str, Any]]) -> None:
    """Rows under their names; on a narrow terminal lines go on rather than being cut."""
    lines = [[*rows[0]], *([*map(str, row.values())] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # rich.table takes a millisecond a row, and there are thousands
        typer.echo(
            " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _use(folder: Path | None) -> None:
    if folder is not None:
        os.environ["BIOPLAUS_RESULTS"] = str(folder.expanduser().resolve())


def _runs(
    preset: str,
    paper: str | None,
    only: str | None = None,
    setting: list[str] | None = None,
    seeds: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> list[manifest.Run]:
    given = {"device": device, "n_threads": threads}
    execution = {name: value for name, value in given.items() if value is not None}
    overrides = _settings(setting or [])
    return manifest.runs(
        preset, [paper] if paper else None, only, _seeds(seeds), overrides, execution=execution
    )


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BioplausError(
            f"--seeds is {text!r}, but must be whole numbers with commas between, as in 1,2."
        ) from None


def _settings(pairs: list[str]) -> dict[str, Any]:
    """Values are read as YAML 1.2, as in a manifest: 1e-4 is a number, [8, 4] a list, true a truth
    value.
    """
    from ruamel.yaml import YAML, YAMLError

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            raise BioplausError(
                f"--set is {pair!r}, but must be name=value, as in n_epochs=5 or config.lr=1e-3."
            )
        try:
            found[name] = YAML(typ="safe", pure=True).load(value)
        except (YAMLError, RecursionError):
            raise BioplausError(f"--set {name}: the value {value!r} is not valid YAML.") from None
    return found


def _run(
    runs: list[manifest.Run],
    workers: int,
    scheduler: str,
    inline: bool,
    kernel: str,
    again: bool = False,
) -> None:
    engine.check(runs, None if inline else kernel)
    known = engine.finished(runs)
    _tell_of_code(runs, known, again)
    todo = engine.pending(runs, again, known)
    at_once = 1 if inline else workers or engine.cores()
    console.print(
        f"{len({run.folder for run in runs})} runs, {len(todo)} to do{_forecast(todo, at_once)}."
    )
    summary = engine.execute(
        runs,
        workers=workers,
        scheduler=scheduler,
        inline=inline,
        kernel=kernel,
        again=again,
        todo=todo,
        report=console.print,
    )
    console.print(f"Runs: {summary}. Results are in {paths.root()}.")
    if summary.failed:
        run_id, message = next(iter(summary.failed.items()))
        raise engine.SweepError(
            f"{len(summary.failed)} of {len(runs)} runs failed, first {run_id}: {message}"
        )


def _tell_of_code(runs: list[manifest.Run], known: engine.Finished, again: bool = False) -> None:
    """Say which finished runs other code made, unless they are made `again`, and which do not say
    what made them.
    """
    if count := 0 if again else len(engine.outdated(runs, known)):
        made = "1 finished run was" if count == 1 else f"{count} finished runs were"
        console.print(f"{made} made with other code of their rule; --again runs them again.")
    if count := len(engine.unsaid(runs, known)):
        they = "1 finished run does" if count == 1 else f"{count} finished runs do"
        console.print(f"{they} not say which code made them; --again leaves them.")


def _forecast(todo: list[manifest.Run], at_once: int) -> str:
    seconds = engine.forecast(todo, at_once)
    if not todo or seconds is None:
        return ""
    time = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return f", about {time} with {at_once} at once"


def _draw(preset: str, paper: str | None, workers: int) -> None:
    from bioplaus.analysis import report as reporting

    if preset not in manifest.PRESETS:
        manifest.runs(preset)  # raises the sentence
    for line in reporting.draw(preset, [paper] if paper else None, workers=workers):
        console.print(line)
    console.print(f"Report: {reporting.render(preset)}")


def main() -> None:
    """Run a command; errors end in one sentence and an exit code (2 input, 1 failed run, 130
    interrupted).
    """
    is_debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print(
                "Interrupted. What is done is kept; the same command resumes from the last"
                " checkpoints.",
                file=sys.stderr,
            )
        raise
    except BioplausError as error:
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # a fault of bioplaus itself
        if is_debug:
            raise
        print(
            f"error: unexpected {type(error).__name__}: {error} (--debug shows where; please"
            " report it)",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
