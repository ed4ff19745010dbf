"""The folders of the project: where notebooks and manifests are, and where results go."""

import os
from pathlib import Path

from bioplaus.errors import BioplausError


def project_root() -> Path:
    """The folder that holds `Simulations`, `notebooks` and `Results`: BIOPLAUS_HOME, or where this
    package's source is.

    Raises
    ------
    BioplausError
        Where there is no `Simulations` folder in it.
    """
    given = os.environ.get("BIOPLAUS_HOME")
    home = Path(os.path.expanduser(given) if given else Path(__file__).resolve().parent.parent)
    if not (home / "Simulations").is_dir():
        raise BioplausError(
            f"{home} has no folder Simulations; work in a clone of the project (pip install -e .),"
            " or set BIOPLAUS_HOME to one."
        )
    return home


def check_inside(folder: Path, parent: Path) -> None:
    """Raise `BioplausError` if `folder` leads out of `parent`, by `..` or by a link in it.

    `parent` itself may be a link.
    """
    if not folder.resolve().is_relative_to(parent.resolve()):
        raise BioplausError(
            f"{folder} leads out of {parent}, to {folder.resolve()}; nothing is written there."
        )


def root() -> Path:
    """The folder of all results: BIOPLAUS_RESULTS, or `Results` of the project."""
    given = os.environ.get("BIOPLAUS_RESULTS")
    return Path(os.path.expanduser(given)) if given else project_root() / "Results"
