"""What workers do between runs: as soon as the runs that it waits for have ended, whatever came of
them, and never in the way of the others.
"""

from functools import partial
from uuid import uuid4

import pytest
from toy import silent

from bioplaus.cli import output
from bioplaus.cli.progress import Progress
from bioplaus.experiments import cluster, execution, jupyter, manifest, sweep
from bioplaus.experiments.cluster import Follower
from bioplaus.experiments.execution import Outcome, Settings

happened = []  # in this process: the worker of these tests is a thread of it


def _note(name, error=None):
    happened.append(name)
    if error:
        raise error
    return f"{name} called"


def _noted_run(run, *_, **__):
    happened.append(f"{run.entry} {run.seed}")
    return Outcome("failed" if run.entry == "graded-1" else "done", "", 0.0)


@pytest.fixture
def execute(project, scheduler, monkeypatch):
    """execute(runs, followers) gives the names of what happened, in order, and what followers
    returned.
    """
    monkeypatch.setattr(execution, "execute", _noted_run)
    happened.clear()

    def run(runs, followers):
        returned = {}
        outcomes = cluster.execute(
            sweep.in_order(runs),
            Settings(environment=jupyter.environment(), sweep=uuid4().hex),
            workers=1,
            scheduler=scheduler,
            retries=0,
            followers=followers,
            followed=lambda follower, value: returned.update({follower.name: value}),
        )
        assert len(list(outcomes)) == len(runs)
        return happened, returned

    return run


def _of(runs, entry):
    return [run for run in runs if run.entry == entry]


def test_a_follower_is_called_when_its_runs_have_ended_done_or_failed(execute):
    runs = manifest.runs("paper")
    followers = [
        Follower(entry, partial(_note, entry), _of(runs, entry)) for entry in ("plain", "graded-1")
    ]
    order, returned = execute(runs, followers)
    assert returned == {"plain": "plain called", "graded-1": "graded-1 called"}
    for entry in ("plain", "graded-1"):
        assert order.index(entry) > max(order.index(f"{entry} {seed}") for seed in (0, 10))


def test_an_error_is_told_to_nobody_and_what_waits_for_nothing_is_called_too(execute):
    runs = manifest.runs("paper")
    wrong = Follower("wrong", partial(_note, "wrong", ValueError("no")), _of(runs, "plain"))
    last = Follower("last", partial(_note, "last"), [], is_urgent=False)
    returned = execute(runs, [last, wrong])[1]
    assert returned == {"wrong": None, "last": "last called"}


class Terminal:
    """Stands in for rich's console."""

    is_terminal, is_dumb_terminal, width = True, False, 60

    def print(self, text, *, style=None, end="\n"):
        print(text, end=end)


def _progress(runs, **options):
    return Progress(runs, 2, 1, **options)


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "file"])
def test_a_terminal_has_one_line_that_changes_and_a_file_one_for_each_event(
    project, rewrite, monkeypatch, capsys, is_terminal
):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, seconds: 59}")
    monkeypatch.setattr(Terminal, "is_terminal", is_terminal)
    monkeypatch.setattr(output, "_console", Terminal())
    runs = manifest.runs("paper", only="plain")
    with _progress(runs) as progress:
        progress.ran("[1/2] done", runs[0], Outcome("done", "", 120.0))  # twice as long as foretold
        assert progress.seconds_left() == pytest.approx(60)  # of too few to know the pace
        progress.ran("[2/2] failed", runs[1], Outcome("failed", "why", 120.0))
        progress.drew(Follower("a_fig_1", silent, runs), "")
    printed = capsys.readouterr().out
    assert "[2/2] failed\n" in printed and ("[1/2] done\n" in printed) is not is_terminal
    assert ("1 of 2 runs, 0 of 1 notebooks drawn, about 60 seconds left" in printed) is is_terminal
    assert printed.endswith("\r\x1b[K" if is_terminal else "1 of 1 notebooks drawn\n")


def test_the_page_is_written_from_the_first_figure_on_and_for_good_when_work_is_broken_off(
    project, capsys
):
    runs, written, figures = manifest.runs("paper", only="plain"), [], []
    progress = _progress(runs, render=written.append, has_figures=lambda: bool(figures))
    with pytest.raises(KeyboardInterrupt), progress:
        progress.ran("[1/2] done", runs[0], Outcome("done", "", 1.0))
        progress.drew(Follower("a_tab_1", silent, runs), "")  # which holds no figure
        assert not written
        progress.drew(Follower("a_fig_1", silent, runs), "an error")
        assert not written
        figures.append("a_fig_2")
        progress.drew(Follower("a_fig_2", silent, runs), "")
        assert len(written) == 1 and "1 of 2 runs, 2 of 1 notebooks drawn" in written[0]
        raise KeyboardInterrupt
    assert len(written) == 2 and written[1] == ""
