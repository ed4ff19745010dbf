"""A pytest plugin for nbval: the kernels of its notebooks are warm ones.

`pytest -p bioplaus.experiments.nbval_plugin --nbval-lax Simulations` loads it, and so does `make
nbval`. Processes of pytest-xdist ask the fork server of the process that started them.
"""

import contextlib
from typing import Any

from bioplaus.experiments import jupyter, warm

with jupyter.without_iri_grammar():
    import nbclient  # noqa: F401  # and with it all that nbval imports


def pytest_configure(config: Any) -> None:
    """Have kernels forked until pytest ends."""
    warm.provide()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warm.kernels({}))
        config.add_cleanup(stack.pop_all().close)
