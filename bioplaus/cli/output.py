"""What commands print; a reader that goes away, or a full device, stops no command."""

import os
import sys
from typing import Any

from rich.console import Console

# brackets in a message are brackets
_console = Console(soft_wrap=True, highlight=False, markup=False)


def say(text: object, *, style: str | None = None, end: str = "\n") -> None:
    """Print a line; where standard output is broken it is lost, as all that follow."""
    clear_line()
    try:
        _console.print(text, style=style, end=end)
        sys.stdout.flush()
    except (OSError, SystemExit):  # rich exits where a pipe is broken
        _console.quiet = False
        _discard_output()


def say_passing(text: str) -> None:
    """Print a line that is of interest at its moment only: not where `update_line` says as much."""
    if not _is_live():
        say(text)


def update_line(text: str) -> None:
    """Change the last line of a terminal; elsewhere nothing is printed."""
    if _is_live():
        short = text if len(text) < _console.width else text[: _console.width - 2] + "…"
        write_raw(f"\r\x1b[K{short}")


def clear_line() -> None:
    """Take away what `update_line` has left."""
    if _is_live():
        write_raw("\r\x1b[K")


def _is_live() -> bool:
    return _console.is_terminal and not _console.is_dumb_terminal


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows under their names; on a narrow terminal lines go on rather than being cut."""
    lines = [[*rows[0]], *([*map(str, row.values())] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = (
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    write("\n".join(texts))  # rich.table takes a millisecond a row, and there are thousands


def write(text: str) -> None:
    """Print text as it is, and end the line."""
    write_raw(f"{text}\n")


def write_raw(text: str) -> None:
    """Print text as it is."""
    try:
        print(text, end="", flush=True)
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """Send standard output nowhere from now on, so that Python does not complain at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # a standard output that is no file
        return
