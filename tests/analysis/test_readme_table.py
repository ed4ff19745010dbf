"""The README claims what the committed results say, row by row."""

import readme_table

from bioplaus import paths
from bioplaus.experiments import manifest

README = paths.project_root() / "README.md"


def test_the_table_of_claims_follows_from_the_committed_results():
    """`python tests/analysis/readme_table.py` writes it anew."""
    text = README.read_text(encoding="utf-8")
    assert readme_table.table_of(text) == readme_table.lines()


def test_the_cost_of_preset_paper_is_the_sum_of_its_manifests():
    runs = {run.folder: run for run in manifest.runs("paper")}.values()
    days = sum(run.seconds or 0 for run in runs) / 86400
    uncounted = {run.paper for run in runs if run.seconds is None}
    assert uncounted == {"bilateral"}
    said = f"{days:.0f} days of one core by the manifests, bilateral as published not counted"
    assert said in README.read_text(encoding="utf-8")
