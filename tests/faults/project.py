"""The small project of `tests/experiments`, without pytest."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from toy import BODY, CHECK, MANIFEST, PARAMETERS, write_notebook


@contextlib.contextmanager
def toy_project(folder: Path) -> Iterator[Path]:
    """A project in `folder` while it is used; its simulation does what its parameters ask for."""
    project = folder.resolve() / "project"
    manifests = project / "Simulations" / "manifests"
    manifests.mkdir(parents=True)
    cells = (("parameters", PARAMETERS), ("check", CHECK), ("", BODY))
    write_notebook(project / "Simulations" / "act.ipynb", *cells)
    (manifests / "toy.yaml").write_text(MANIFEST)
    variables = {"BIOPLAUS_HOME": str(project), "BIOPLAUS_RESULTS": str(project / "Results")}
    with mock.patch.dict(os.environ, variables):
        yield project
