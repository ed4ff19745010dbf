"""The table of faults at small counts: every promise holds, and no longer does where what it rests
on is switched off.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "results"), str(HERE.parent / "experiments")]

import table  # noqa: E402  (its rows are found beside this file)
from rows import count  # noqa: E402

GUARDED = [row for row in table.ROWS.values() if row.guard_off]


@pytest.mark.parametrize("row", table.ROWS.values(), ids=lambda row: row.name)
def test_every_promise_holds(row, tmp_path):
    held = count(row, row.n_small, tmp_path / "on")
    assert held.survived == held.tried, held.first_broken


@pytest.mark.parametrize("row", GUARDED, ids=lambda row: row.name)
def test_a_promise_is_broken_where_its_guard_is_off(row, tmp_path):
    with row.guard_off():
        held = count(row, row.n_guard_off, tmp_path / "off", until_broken=True)
    assert held.survived < held.tried
