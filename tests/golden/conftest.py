"""Goldens with something changed, for tests that a change is seen."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Path, Mapping[str, np.ndarray]], Path]:
    """changed(path, arrays): a copy of the golden at `path` with these arrays in place of its
    own.
    """

    def copy(path: Path, replaced: Mapping[str, np.ndarray]) -> Path:
        with np.load(path) as golden:
            np.savez(tmp_path / path.name, **{**golden, **replaced})
        return tmp_path / path.name

    return copy
