"""The index notebooks: they name figures that exist, in every figure notebook of their paper."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bioplaus.analysis import gallery
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

ROOT = Path(__file__).resolve().parents[2]


def test_a_drawn_figure_is_shown_and_a_missing_one_says_how_to_draw_it(
    tmp_path, monkeypatch, capsys
):
    shown = []
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))
    monkeypatch.setattr("IPython.display.display", shown.append)
    folder = tmp_path / "smoke" / "figures"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(folder / "ccdni_fig_2_learning.png")
    gallery.show("smoke", "ccdni_fig_2_learning", "ccdni_fig_2_drawings")
    assert [picture.alt for picture in shown] == ["ccdni_fig_2_learning"]
    out = capsys.readouterr().out
    assert out == ("ccdni_fig_2_drawings is not drawn yet: make report PRESET=smoke PAPER=ccdni\n")
    with pytest.raises(BioplausError, match="did you mean 'smoke'"):
        gallery.show("smok")


@pytest.mark.parametrize("paper", manifest.papers())
def test_the_index_of_a_paper_links_to_each_of_its_notebooks(paper):
    path = ROOT / "notebooks" / f"{paper}_index.ipynb"
    text = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    notebooks = {path.name for path in ROOT.glob(f"notebooks/{paper}_*.ipynb")} - {path.name}
    assert set(re.findall(r"\]\((\w+\.ipynb)\)", text)) >= notebooks
    shown = re.findall(r'"(\w+_fig_\w+)"', text)
    assert shown and all(name.startswith(f"{paper}_fig_") for name in shown)
