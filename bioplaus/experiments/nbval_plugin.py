"""A pytest plugin for nbval: the kernels of its notebooks are warm ones.

`pytest -p bioplaus.experiments.nbval_plugin --nbval-lax Simulations` loads it; `make nbval` does.
Processes of pytest-xdist ask the fork server of the process that started them.
"""

import contextlib

import pytest

from bioplaus.experiments import jupyter, warm

with jupyter.without_iri_grammar():
    import nbval.plugin  # noqa: F401  # imported here first, it is not imported slowly later


def pytest_configure(config: pytest.Config) -> None:
    """Have kernels forked until pytest ends."""
    warm.provide()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warm.kernels({}))
        config.add_cleanup(stack.pop_all().close)
