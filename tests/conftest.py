"""Fixtures every folder of tests may use."""

from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("bioplaus", deadline=None)  # a busy machine is not a defect
hypothesis.settings.load_profile("bioplaus")


@pytest.fixture(autouse=True)
def _reseed() -> None:
    """Global generators start the same in every test, one compute thread: bioplaus itself draws
    from neither.
    """
    torch.manual_seed(0)
    numpy.random.seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """The folder of real data and goldens beside the project; tests that need it are skipped where
    it is missing.
    """
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside the project")
    return folder
