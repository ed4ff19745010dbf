"""What commands print."""

from typing import Any

import typer
from rich.console import Console

# brackets in a message are brackets
console = Console(soft_wrap=True, highlight=False, markup=False)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows under their names; on a narrow terminal lines go on rather than being cut."""
    lines = [[*rows[0]], *([*map(str, row.values())] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # rich.table takes a millisecond a row, and there are thousands
        typer.echo(
            " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
