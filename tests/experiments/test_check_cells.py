"""The check cells of the simulation notebooks, as another program than this one executes them."""

from pathlib import Path

import pytest

from bioplaus.errors import BioplausError
from bioplaus.experiments import simulation

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("value", [1.0, "3", True, None], ids=repr)
@pytest.mark.parametrize("name", simulation.names())
def test_a_value_of_another_type_than_declared_is_refused_by_the_notebook_itself(name, value):
    chosen = simulation.load(name)
    namespace = {**chosen.parameters().values(), "n_epochs": value}
    cells = [source for tags, source in chosen.cells if "check" in tags]
    with pytest.raises(BioplausError, match="'n_epochs' is .*, but must be a whole number"):
        for source in cells:
            exec(source, namespace)


@pytest.mark.parametrize("name", simulation.names())
def test_the_declared_defaults_pass(name):
    chosen = simulation.load(name)
    chosen.check_types(chosen.parameters().values())
