"""Links that open a notebook in Colab or Binder, where the clone's remote is on GitHub.

The address is that of the remote `origin`, so a fork's pages lead to the fork; a clone without one
gets no links.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- colab -->"


def address(remote: str) -> str | None:
    """The page of a repository on GitHub, from the address of a remote; None for another host.

    >>> address("git@github.com:someone/bioplaus.git")
    'https://github.com/someone/bioplaus'
    """
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", remote.strip())
    return f"https://github.com/{match[1]}" if match else None


def origin() -> str | None:
    """The address of this clone's repository."""
    done = subprocess.run(
        ["git", "config", "remote.origin.url"], cwd=ROOT, capture_output=True, text=True
    )
    return address(done.stdout)


def cell(repository: str) -> str:
    """What a notebook in Colab runs first: a clone beside it, its packages, and where it lies."""
    return (
        f"!git clone --quiet --depth 1 {repository} bioplaus\n"
        '%pip install --quiet "./bioplaus[lab]"\n'
        "%env BIOPLAUS_HOME=bioplaus\n"
    )


def links(repository: str, notebook: str) -> str:
    """Where to open a notebook, as Markdown."""
    name = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath={notebook.replace('/', '%2F')}"
    return f"[Open in Colab]({colab}) · [Open in Binder]({binder})"


def add(app: Any, docname: str, source: list[str]) -> None:
    """Put the links under the title of a notebook, and the cell on its page."""
    repository = origin()
    if docname == "docs/howto/browser":
        block = (
            f"```python\n{cell(repository)}```"
            if repository
            else "These pages were built from a clone whose `origin` is not on GitHub; with one,"
            " the cell stands here, and links stand on every notebook's page."
        )
        source[0] = source[0].replace(MARK, block)
    elif repository and docname.startswith("notebooks/") and source[0].startswith("{"):
        notebook = json.loads(source[0])
        first = dict(notebook["cells"][0], source=links(repository, f"{docname}.ipynb"))
        notebook["cells"].insert(1, {**first, "id": "open-elsewhere"})
        source[0] = json.dumps(notebook)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", add, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
