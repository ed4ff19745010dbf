"""Figure notebooks as they were drawn from the committed results, and links that lead somewhere.

The text of a notebook in `notebooks` is replaced by that of its executed copy, where `python -m
bioplaus report` keeps one; and a link to a file of code leads to its page.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRESET = "desk"


def with_outputs(app: Any, docname: str, source: list[str]) -> None:
    """Take the executed copy of a figure notebook, and its links to code as links to pages."""
    path = Path(docname)
    drawn = ROOT / "Results" / PRESET / "notebooks" / f"{path.name}.ipynb"
    if path.parent == Path("notebooks") and drawn.is_file():
        notebook = json.loads(drawn.read_text(encoding="utf-8"))
        notebook["cells"] = [
            cell
            for cell in notebook["cells"]
            if "injected-parameters" not in cell["metadata"].get("tags", [])
        ]
        source[0] = json.dumps(notebook)
    if path.name.endswith("_index"):
        source[0] = with_pictures(source[0])
    source[0] = re.sub(
        r"\]\((?:\.\./)*/?bioplaus/((?:\w+/)*[a-z]\w*)\.py\)",
        lambda match: f"](/docs/api/bioplaus.{match[1].replace('/', '.')}.md)",
        source[0],
    )


def with_pictures(text: str) -> str:
    """The index notebook of a paper, whose pictures are there already, without its code."""
    notebook = json.loads(text)
    cells = []
    for cell in notebook["cells"]:
        names = re.findall(r'"(\w+_fig_\w+)"', "".join(cell["source"]))
        if cell["cell_type"] == "markdown":
            cells.append(cell)
        elif names:
            folder = f"Results/{PRESET}/figures"
            pictures = "\n\n".join(
                f"![{name}](/{folder}/{name}.png)"
                if (ROOT / folder / f"{name}.png").is_file()
                else f"*{name} is not drawn: nothing of it was run at preset {PRESET}.*"
                for name in names
            )
            cells.append({**cells[0], "id": cell["id"], "source": pictures})
    return json.dumps({**notebook, "cells": cells})


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", with_outputs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
