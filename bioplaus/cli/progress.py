"""How far the work is, in the terminal and on the report page, while runs and drawings go on."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from bioplaus.cli import output
from bioplaus.errors import BioplausError
from bioplaus.experiments import forecast
from bioplaus.experiments.cluster import Follower
from bioplaus.experiments.execution import Outcome
from bioplaus.experiments.run import Run

_PAGE_SECONDS = 10.0  # between two versions of the page, which loads itself again as often
_PAGE_SHARE = 0.04  # of a core that the page may take, meanwhile


class Progress:
    """A line that says where the work is: it changes in a terminal; elsewhere each event has one.

    Parameters
    ----------
    todo : the runs that are executed.
    n_workers : how many at once.
    n_notebooks : how many notebooks are drawn meanwhile.
    render : writes the report page with a sentence about the work, or, with none, for good.
    has_figures : whether there is a figure to show on it.
    """

    def __init__(
        self,
        todo: Sequence[Run],
        n_workers: int,
        n_notebooks: int = 0,
        render: Callable[[str], object] | None = None,
        has_figures: Callable[[], bool] = lambda: False,
    ) -> None:
        self.left = dict(zip((run.key for run in todo), forecast.expected(todo), strict=True))
        self.n_runs, self.n_workers, self.n_notebooks = len(todo), n_workers, n_notebooks
        self.n_ended = self.n_drawn = 0
        self.took, self.foretold, self.n_foretold = 0.0, 0.0, 0
        self.render, self.has_figures = render, has_figures
        self.rendered = self.page_seconds = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing more comes; the page, where the work was broken off, says nothing of work."""
        output.clear_line()
        if error is not None and not isinstance(error, BioplausError) and self.rendered:
            assert self.render is not None
            self.render("")

    def ran(self, line: str, run: Run, outcome: Outcome) -> None:
        """A run has ended; `line` says how."""
        self.n_ended += 1
        seconds = self.left.pop(run.key, None)
        self.took += outcome.seconds
        if seconds is not None:
            self.foretold += seconds
            self.n_foretold += 1
        if outcome.status == "done" and not outcome.message:
            output.say_passing(line)
        else:
            output.say(line)
        self._show(must_write=False)

    def drew(self, follower: Follower, error: Any) -> None:
        """A notebook was drawn, if it has no error; else it is drawn, and told of, in the end."""
        if error == "":
            self.n_drawn += 1
            output.say_passing(f"drawn    {follower.name}; {self}")
            self._show(must_write=self.has_figures())

    def __str__(self) -> str:
        """`37 of 156 runs, 3 of 22 notebooks drawn, about 2 minutes left (until 14:32)`."""
        parts = [f"{self.n_ended} of {self.n_runs} runs"]
        if self.n_notebooks:
            parts.append(f"{self.n_drawn} of {self.n_notebooks} notebooks drawn")
        if seconds := self.seconds_left():
            until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
            parts.append(f"about {forecast.in_words(seconds)} left (until {until})")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Expected wall seconds of the runs that have not ended: as foretold, in proportion to what
        those took that have. None where nothing is known.
        """
        pace = self.took / self.foretold if self.n_foretold >= self.n_workers else 1.0
        usual = self.took / self.n_ended if self.n_ended else None
        each = [usual if s is None else s * pace for s in self.left.values()]
        known = [seconds for seconds in each if seconds is not None]
        if len(known) < len(each):
            return None
        return max(sum(known) / max(1, self.n_workers), max(known, default=0.0))

    def _show(self, *, must_write: bool) -> None:
        """Say how far the work is; on the page too, if it exists or `must_write`, and is old."""
        output.update_line(str(self))
        if self.render is None or not (self.rendered or must_write):
            return
        is_first = not self.rendered
        wait = max(_PAGE_SECONDS, self.page_seconds / _PAGE_SHARE)
        if not is_first and time.monotonic() - self.rendered < wait:
            return
        started = time.process_time()
        page = self.render(f"Work goes on: {self}, as of {time.strftime('%H:%M:%S')}.")
        self.page_seconds = time.process_time() - started
        self.rendered = time.monotonic()
        if is_first:
            output.say(f"The first figure is drawn; the page follows the work: {page}")
            output.update_line(str(self))
