"""Commands that run simulations, draw what came of them, and say how far they are."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

from bioplaus import paths, results
from bioplaus.cli import options
from bioplaus.cli.output import print_table, say
from bioplaus.cli.progress import Progress
from bioplaus.errors import BioplausError, RunError, unknown
from bioplaus.experiments import completion, manifest, merging, sweep
from bioplaus.experiments import forecast as forecasting
from bioplaus.experiments import side_by_side as grouping
from bioplaus.experiments import status as states
from bioplaus.experiments import workers as processes
from bioplaus.results import listing


def run(
    preset: options.Preset = "quick",
    paper: options.Paper = None,
    only: options.Only = None,
    setting: options.Setting = None,
    seeds: options.Seeds = None,
    results_folder: options.Results = None,
    device: options.Device = None,
    threads: options.Threads = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = "local",
    side_by_side: options.SideBySide = None,
    inline: options.Inline = False,
    kernel: options.Kernel = "python3",
    again: options.Again = False,
) -> None:
    """Run simulations that are not done yet, and show how each ended."""
    options.use_results_folder(results_folder)
    runs = options.selected_runs(preset, paper, only, setting, seeds, device, threads)
    _sweep(runs, workers, scheduler, side_by_side, inline, kernel, again)


def reproduce(
    preset: options.Preset = "quick",
    paper: options.Paper = None,
    only: options.Only = None,
    results_folder: options.Results = None,
    device: options.Device = None,
    threads: options.Threads = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = "local",
    side_by_side: options.SideBySide = None,
    kernel: options.Kernel = "python3",
    again: options.Again = False,
) -> None:
    """Run what is missing, draw every figure and table, and write the report page."""
    options.use_results_folder(results_folder)
    failure = None
    try:
        runs = options.selected_runs(preset, paper, only, device=device, threads=threads)
        drawn = preset, paper
        _sweep(runs, workers, scheduler, side_by_side, False, kernel, again, drawn)
    except BioplausError as error:
        if error.exit_code != 1:
            raise
        failure = error  # some runs failed: draw the others, then say so
    try:  # drawing is done here, whatever a cluster can take
        _draw(preset, paper, workers if scheduler == "local" else 0)
    except RunError as error:
        failure = failure or error
    if failure:
        raise failure


def report(
    preset: options.Preset = "quick",
    paper: options.Paper = None,
    results_folder: options.Results = None,
    workers: options.Workers = 0,
) -> None:
    """Draw figures and tables from the results there are, and write the report page."""
    options.use_results_folder(results_folder)
    _draw(preset, paper, workers)


def status(
    preset: options.Preset = "quick",
    paper: options.Paper = None,
    only: options.Only = None,
    setting: options.Setting = None,
    seeds: options.Seeds = None,
    results_folder: options.Results = None,
    device: options.Device = None,
    side_by_side: options.SideBySide = None,
) -> None:
    """List every run of a preset: done, running, interrupted, failed or missing; and say what the
    preset costs, by the manifests, or on a GPU (--device cuda) by measured steps.
    """
    options.use_results_folder(results_folder)
    runs = options.selected_runs(preset, paper, only, setting, seeds, device)
    known = completion.completed(runs, report=say)
    rows = states.rows(runs, known)
    say(f"Preset {preset}:")
    print_table(rows)
    counts = Counter(row["status"] for row in rows)
    say(", ".join(f"{count} {state}" for state, count in counts.items()))
    _print_code(runs, known)
    _print_cost(runs, completion.pending(runs, known=known), side_by_side)


def collect(
    preset: options.Preset = "desk",
    paper: options.Paper = None,
    results_folder: options.Results = None,
    origin: options.From = None,
) -> None:
    """Put all complete runs of each experiment into one small file beside its folder."""
    options.use_results_folder(results_folder)
    runs = options.selected_runs(preset, paper)
    if origin is not None:
        _merge(origin, runs)
        return
    failure: BioplausError | None = None
    for folder in dict.fromkeys(run.experiment_folder for run in runs):
        try:
            path = results.collect(folder, report=say)
        except BioplausError as error:  # one bad file hides none of the others
            failure = error
            say(str(error))
            continue
        if path:
            say(f"{path}: {len(results.collected(folder))} runs, {path.stat().st_size:,} bytes")
    _write_listing(preset)
    if failure:
        raise failure


def _merge(folder: Path, runs: list[manifest.Run]) -> None:
    """Merge runs made elsewhere, and say what came of it."""
    merged = merging.merge(folder, runs, report=say)
    for path, n in merged.n_runs.items():
        say(f"{path}: {n} runs more, {path.stat().st_size:,} bytes")
    _write_listing(runs[0].preset)
    say(
        f"{sum(merged.n_runs.values())} runs merged, {len(merged.kept)} there already,"
        f" {len(merged.unplanned)} not planned by this preset, {len(merged.refused)} refused."
    )
    if merged.refused:
        raise RunError(f"{len(merged.refused)} runs were refused, first: {merged.refused[0]}")


def _write_listing(preset: str) -> None:
    """Say beside the collected files of a preset what made them, if there are any."""
    folder = paths.root() / preset
    if os.path.isdir(folder) and any(folder.glob("*/*.pkl")):
        say(f"{listing.write_listing(folder)}: what made them")


def _sweep(
    runs: list[manifest.Run],
    workers: int,
    scheduler: str,
    side_by_side: int | None,
    inline: bool,
    kernel: str,
    again: bool,
    drawn: tuple[str, str | None] | None = None,
) -> None:
    """Run what is not done yet, and meanwhile draw what shows it, of the preset and paper that
    `drawn` names.
    """
    try:
        known = completion.completed(runs)
    except (OSError, BioplausError):  # where the folder cannot be one, `check` says so
        sweep.check(runs)
        raise
    todo = completion.pending(runs, again, known)
    if inline:
        sweep.check(runs)
    elif todo:  # what has nothing to do need not wait for torch and a kernel
        sweep.check(runs, kernel, scheduler=scheduler, workers=workers)
    _print_code(runs, known, again)
    at_once = 1 if inline or not todo else processes.at_once(todo, workers)
    duration = _duration(todo, at_once, side_by_side)
    say(f"{len({run.folder for run in runs})} runs, {len(todo)} to do{duration}.")
    followers, page = [], ()
    if drawn and todo and scheduler == "local":
        from bioplaus.analysis import drawing
        from bioplaus.analysis import report as reporting

        preset, paper = drawn
        notebooks = drawing.notebooks_of(preset, [paper] if paper else None)
        todo = drawing.early_figures(notebooks, todo)
        followers = drawing.followers(notebooks, todo)
        page = partial(reporting.render, preset), partial(reporting.has_figures, preset)
    with Progress(todo, at_once, len(followers), *page) as progress:
        summary = sweep.execute(
            runs,
            workers=workers,
            scheduler=scheduler,
            inline=inline,
            kernel=kernel,
            again=again,
            most=side_by_side,
            todo=todo,
            followers=followers,
            report=say,
            ended=progress.ran,
            followed=progress.drew,
        )
    say(f"Runs: {summary}. Results are in {paths.root()}.")
    if summary.failed:
        run_id, message = next(iter(summary.failed.items()))
        raise sweep.SweepError(
            f"{len(summary.failed)} of {len(runs)} runs failed, first {run_id}: {message}"
        )


def _print_code(runs: list[manifest.Run], known: completion.Completed, again: bool = False) -> None:
    """Say which finished runs other code made, unless they are made `again`, and which do not say
    what made them.
    """
    if count := 0 if again else len(completion.outdated(runs, known)):
        made = "1 finished run was" if count == 1 else f"{count} finished runs were"
        say(f"{made} made with other code of their rule; --again runs them again.")
    if count := len(completion.without_code(runs, known)):
        they = "1 finished run does" if count == 1 else f"{count} finished runs do"
        say(f"{they} not say which code made them; --again leaves them.")


def _print_cost(
    runs: list[manifest.Run], todo: list[manifest.Run], side_by_side: int | None
) -> None:
    """Say what runs cost, and what of them is to do."""
    if not any(map(grouping.is_on_gpu, runs)):
        seconds, n_without = forecasting.cost(runs)
        if seconds:
            left = forecasting.in_words(forecasting.cost(todo)[0]) or "nothing"
            without = f"; {n_without} runs have no figure there" if n_without else ""
            total = forecasting.in_words(seconds)
            say(f"By the manifests they cost {total} of one core, {left} to do{without}.")
        return
    from bioplaus.experiments import gpu_cost  # here, so that others need not wait for torch

    cost = gpu_cost.cost(runs, side_by_side)
    left = gpu_cost.cost(todo, side_by_side) if len(todo) < len(runs) else cost
    counts = [f"{len(cost.measured)} as measured"]
    counts += [f"{len(cost.scaled)} scaled by their operations, rather too high than too low"]
    counts += [f"{len(cost.unknown)} not counted"] if cost.unknown else []
    total, to_do = map(forecasting.in_words, (cost.seconds, left.seconds))
    say(
        f"By measured steps they cost {total} of one {cost.device}, evaluation not counted,"
        f" {to_do or 'nothing'} to do; of the entries {', '.join(counts)}."
    )


def _duration(todo: list[manifest.Run], at_once: int, side_by_side: int | None) -> str:
    if not todo or (seconds := _forecast(todo, at_once, side_by_side)) is None:
        return ""
    return f", about {forecasting.in_words(seconds)} with {at_once} at once"


def _forecast(todo: list[manifest.Run], at_once: int, side_by_side: int | None) -> float | None:
    if not any(map(grouping.is_on_gpu, todo)):
        return forecasting.forecast(todo, at_once)
    from bioplaus.experiments import gpu_cost  # here, so that others need not wait for torch

    cost = gpu_cost.cost(todo, side_by_side)
    return None if cost.unknown else (cost.seconds + forecasting.KERNEL_SECONDS) / at_once


def _draw(preset: str, paper: str | None, workers: int) -> None:
    from bioplaus.analysis import report as reporting

    if preset not in manifest.PRESETS:
        raise unknown("preset", preset, manifest.PRESETS)
    lines = []
    for line in reporting.draw(preset, [paper] if paper else None, workers=workers):
        lines.append(line)
        say(line)
    say(f"Report: {reporting.render(preset)}")
    failed = [line for line in lines if line.partition("] ")[2].startswith("failed ")]
    if failed:
        first = failed[0].partition("] failed ")[2]
        raise RunError(f"{len(failed)} of {len(lines)} notebooks failed, first {first}")
