"""Commands that check the rules against the published code, their speed, and the installation."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bioplaus.cli import options
from bioplaus.cli.output import say, write


def conform(
    paths: Annotated[list[Path], typer.Argument(help="Golden files, or folders of them.")],
    rule: Annotated[
        str | None,
        typer.Option(
            help="Replay through this rule instead of the published one.",
            autocompletion=options.rule_names,
        ),
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
    write(conformance.render(reports, as_json=json))
    if not all(found.ok for found in reports):
        raise typer.Exit(1)


def benchmark(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Rules; all that state a published size without it.",
            autocompletion=options.rule_names,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds of measurement.")] = 9,
    plain: Annotated[
        bool, typer.Option("--plain", help="Time the plain form beside the one that runs.")
    ] = False,
    where: Annotated[
        str,
        typer.Option("--device", help="cpu; cuda: eager, as a CUDA graph, several seeds at once."),
    ] = "cpu",
) -> None:
    """Time one training step of each rule: on one thread, against this machine's matrix product;
    or on a GPU.
    """
    if where != "cpu":
        from bioplaus import device
        from bioplaus.experiments import gpu_benchmark

        chosen = device.pick(where)
        if chosen.type == "cuda":
            timed = gpu_benchmark.run(chosen, names or None, report=partial(typer.echo, err=True))
            write(gpu_benchmark.render(timed, chosen, as_json=json))
            return
    from bioplaus.experiments import benchmark as measuring

    rows = measuring.run(
        names or None, rounds=rounds, plain=plain, report=partial(typer.echo, err=True)
    )
    write(measuring.render(rows, as_json=json))


def doctor(results_folder: options.Results = None) -> None:
    """Check the installation; every line that is not fine says what to do."""
    from bioplaus.experiments import doctor as checking

    options.use_results_folder(results_folder)
    if not checking.show(say):
        raise typer.Exit(1)
