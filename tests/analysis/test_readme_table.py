"""The page of claims and the README claim what the committed results say, row by row."""

import pytest
import readme_table

from bioplaus import paths
from bioplaus.experiments import manifest


@pytest.mark.parametrize(
    ("file", "mark", "head", "right"), [*readme_table.tables()], ids=lambda value: str(value)[:20]
)
def test_the_tables_of_claims_follow_from_the_committed_results(file, mark, head, right):
    """`python tests/analysis/readme_table.py` writes them anew."""
    text = (paths.project_root() / file).read_text(encoding="utf-8")
    assert readme_table.table_of(text, head, mark) == right


def test_the_cost_of_preset_paper_is_the_sum_of_its_manifests():
    runs = {run.folder: run for run in manifest.runs("paper")}.values()
    days = sum(run.seconds or 0 for run in runs) / 86400
    uncounted = {run.paper for run in runs if run.seconds is None}
    assert uncounted == {"bilateral"}
    page = paths.project_root() / "docs" / "howto" / "reproduce.md"
    assert f"{days:.0f} days of one core by the manifests, bilateral as published not counted" in (
        page.read_text(encoding="utf-8")
    )
