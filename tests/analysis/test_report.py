"""Drawing: what is executed, what is kept; and the page."""

import base64
import io
import json
import operator
import os
import re
import signal
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bioplaus import paths, results
from bioplaus.analysis import drawing, experiment, report, saving
from bioplaus.errors import BioplausError, RunError
from bioplaus.experiments import notebooks
from bioplaus.papers.corinfomax import figures

ROOT = Path(__file__).resolve().parents[2]
LEARNED = np.linspace(0.94, 0.974, 10)
NAME = operator.attrgetter("stem")
MNIST = figures.CURVES["MNIST"]
FIGURE = """
from bioplaus import analysis

class Picture:
    # stands in for one of matplotlib, which takes a second to render
    draw_without_rendering = set_layout_engine = lambda *_: None

out = analysis.Output("corinfomax_fig_a", preset)
mnist = analysis.load("corinfomax", "mnist", preset)
drawing = analysis.Drawing(Picture() if mnist.outcomes else None, mnist.curves("test_accuracy"))
claims = analysis.compare_curve(mnist, "test_accuracy")
out.figure("corinfomax_fig_a_one", drawing, mnist, title="One <i>", caption="C & D", claims=claims)
"""


def notebook(home, name, *sources, title="A title"):
    cells = [
        {"cell_type": "markdown", "id": "m", "metadata": {}, "source": [f"# {title}\n", "words"]}
    ]
    for number, source in enumerate(["preset: str = 'desk'", *sources]):
        tags = {"tags": ["parameters"]} if number == 0 else {}
        code = {"cell_type": "code", "id": f"c{number}", "execution_count": None, "outputs": []}
        cells.append({**code, "metadata": tags, "source": source})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = home / "notebooks" / f"{name}.ipynb"
    path.write_text(
        json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


@pytest.fixture
def inline(monkeypatch):
    """Notebooks are executed in this process, without a kernel; the list says which."""
    executed, render = [], saving._render
    picture = io.BytesIO()
    Image.new("RGB", (1500, 900)).save(picture, "png")

    def rendered(figure, kind):
        return render(figure, kind) if isinstance(figure, Figure) else picture.getvalue()

    monkeypatch.setattr(saving, "_render", rendered)
    monkeypatch.setattr(saving, "_show", lambda *_: None)

    def execute(source, output, parameters, **_):
        executed.append(source.stem)
        namespace = dict(parameters)
        for cell in json.loads(source.read_text())["cells"]:
            if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
                exec("".join(cell["source"]), namespace)
        output.write_bytes(source.read_bytes())

    monkeypatch.setattr(notebooks, "execute", execute)
    return executed


def redraw(preset="desk"):
    """What `draw` does, without processes: every notebook that is not current."""
    todo = [found for found in drawing.notebooks_of(preset) if not found.is_current]
    return {found.name: drawing._draw_one(found) for found in todo}


class Reader(HTMLParser):
    """Checks that tags nest, and collects addresses, names and visible text."""

    VOID = {"meta", "img", "br", "link", "hr"}

    def __init__(self, *texts):
        super().__init__()
        self.open, self.links, self.images, self.words = [], [], [], []
        self.names, self.alternatives, self.scripts = set(), [], 0
        for text in texts:
            self.feed(text)
            assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("link", "iframe", "i" if "<i>" in str(attrs) else "iframe")
        self.links += [attrs["href"]] if "href" in attrs else []
        self.images += [attrs["src"]] if "src" in attrs else []
        self.alternatives += [attrs["alt"]] if tag == "img" else []
        self.names |= {attrs["id"]} if "id" in attrs else set()
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def pages(preset="desk", **options):
    """The pages of a preset, by the names of their files, as they are written now."""
    first = report.render(preset, **options)
    assert first == paths.root() / preset / "report" / "index.html"
    files = sorted(first.parent.glob("*.html"))
    return {file.name: Reader(file.read_text(encoding="utf-8")) for file in files}


def page(preset="desk"):
    """All of them as one."""
    first = report.render(preset)
    files = sorted(first.parent.glob("*.html"))
    return Reader(*(file.read_text(encoding="utf-8") for file in files))


def test_what_is_up_to_date_is_not_drawn_again(home, write, inline):
    write("desk", "corinfomax", 0, LEARNED)
    notebook(home, "corinfomax_fig_a", FIGURE)
    assert redraw() == {"corinfomax_fig_a": ""} and redraw() == {}
    assert list(report.draw("desk")) == ["1 of 1 notebooks are up to date."]


def test_a_new_result_another_source_a_lost_file_and_other_published_numbers_are_drawn_again(
    home, write, inline
):
    write("desk", "corinfomax", 0, LEARNED)
    path = notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    write("desk", "corinfomax", 10, LEARNED)
    assert redraw() and not redraw()
    path.write_text(path.read_text().replace("C & D", "C & E"))
    assert redraw() and not redraw()
    (home / "Results" / "desk" / "figures" / "corinfomax_fig_a_one.pdf").unlink()
    assert redraw() and not redraw()
    table = home / "Results" / "published" / "corinfomax_published.csv"
    table.write_text(table.read_text().replace("0.97616", "0.97617"))
    assert redraw() and not redraw()
    manifest = home / "Simulations" / "manifests" / "corinfomax.yaml"
    manifest.write_text(manifest.read_text().replace("label: EP", "label: Equilibrium"))
    assert redraw() and not redraw()
    write("quick", "ep", 0, [0.5, 0.9])  # another preset
    assert not redraw()


def test_a_rule_is_part_of_what_decides_a_drawing_only_if_the_notebook_names_rules(
    home, monkeypatch
):
    """`_code` reads the package beside drawing.py: here a copy of two files stands in for it."""
    package = home / "bioplaus"
    (package / "rules").mkdir(parents=True)
    (package / "plots.py").write_text("x = 1")
    (package / "rules" / "ep.py").write_text("y = 1")
    monkeypatch.setattr(drawing, "__file__", str(package / "analysis" / "drawing.py"))
    plain = drawing.Notebook(notebook(home, "corinfomax_fig_a", "plot()"), "corinfomax", "desk")
    naming = drawing.Notebook(
        notebook(home, "corinfomax_fig_b", "from bioplaus import rules"), "corinfomax", "desk"
    )

    def digests():
        drawing._code.cache_clear()
        return plain.source_digest(), naming.source_digest()

    try:
        before = digests()
        (package / "rules" / "ep.py").write_text("y = 2")
        after = digests()
        assert after[0] == before[0] and after[1] != before[1]
        (package / "plots.py").write_text("x = 2")
        assert digests()[0] != after[0]
    finally:
        drawing._code.cache_clear()


def test_a_notebook_that_fails_stops_no_other_and_is_drawn_again_next_time(home, write, inline):
    notebook(home, "corinfomax_fig_a", FIGURE)
    notebook(home, "corinfomax_fig_b", "raise ValueError('no such colour')")
    assert redraw() == {"corinfomax_fig_a": "", "corinfomax_fig_b": "ValueError: no such colour"}
    assert list(redraw()) == ["corinfomax_fig_b"]
    text = page().text
    assert (
        "The notebook corinfomax_fig_b could not be drawn: ValueError: no such colour" in text
        and "This notebook failed: ValueError: no such colour" in text
    )


def test_a_figure_that_a_notebook_no_longer_draws_is_removed(home, write, inline):
    write("desk", "corinfomax", 0, LEARNED)
    path = notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    path.write_text(path.read_text().replace("corinfomax_fig_a_one", "corinfomax_fig_a_two"))
    redraw()
    figures = (home / "Results" / "desk" / "figures").iterdir()
    assert {figure.stem for figure in figures} == {"corinfomax_fig_a_two"}


def test_an_old_drawing_is_shown_as_old_when_its_notebook_fails(home, write, inline):
    write("desk", "corinfomax", 0, LEARNED)
    path = notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    path.write_text(path.read_text().replace("out.figure", "out.figrue"))
    assert "figrue" in redraw()["corinfomax_fig_a"]
    found = page()
    assert "What is shown of it is from an earlier drawing." in found.text
    assert "../figures/corinfomax_fig_a_one.webp" in found.images


def test_every_link_and_picture_is_there_and_what_is_not_the_page_s_own_is_escaped(
    home, write, inline
):
    write("desk", "corinfomax", 0, LEARNED)
    notebook(home, "corinfomax_fig_a", FIGURE, title="Curves & <script>")
    redraw()
    found = pages()
    assert set(found) == {"index.html", "corinfomax.html", "claims.html", "runs.html"}
    text = found["corinfomax.html"].text
    assert "A paper <b>with markup</b> & more" in text and "Curves & <script>" in text
    folder = paths.root() / "desk" / "report"
    for name, one in found.items():
        assert not one.scripts
        for link in one.links:
            file, _, place = link.partition("#")
            assert (folder / (file or name)).is_file()
            assert not place or place in found[file or name].names
        for picture in one.images:
            assert picture.startswith("data:image/webp;base64,") or (folder / picture).is_file()
    assert found["corinfomax.html"].images == ["../figures/corinfomax_fig_a_one.webp"]
    # published and ours at the last epoch
    assert found["corinfomax.html"].alternatives == [
        "One <i>: CorInfoMax 0.9740 at epoch 10 (published 0.9745)"
    ]


def test_the_first_page_has_picture_claim_verdict_n_minutes_and_command_of_each_paper(
    home, write, inline
):
    claim = "claim: {sentence: Rules learn., experiment: mnist, entry: ep}\nexperiments:"
    path = home / "Simulations" / "manifests" / "corinfomax.yaml"
    path.write_text(path.read_text().replace("experiments:", claim))
    for seed, shift in ((0, 0.0), (10, 0.0002), (20, -0.0002)):
        write("desk", "ep", seed, np.full(50, 0.95 + shift))
    notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    first = pages()["index.html"]
    assert "Claim Rules learn. Verdict differs" in first.text and "n = 3" in first.text
    assert "differs: mnist, EP" in first.text  # not only counted
    assert "make reproduce-figures PRESET=desk PAPER=corinfomax" in first.text
    assert len(first.images) == 1 and first.images[0].startswith("data:image/webp")
    encoded = first.images[0].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.size == (640, 384)


def test_pages_load_themselves_again_only_while_work_goes_on(home):
    for one in pages(working="3 of 9 runs").values():
        assert one.scripts == 1 and "3 of 9 runs" in one.text
    assert not any(one.scripts for one in pages().values())


def test_the_page_gives_published_ours_n_and_verdict_and_what_is_missing(home, write, inline):
    write("desk", "corinfomax", 0, LEARNED)
    write("desk", "corinfomax", 10, LEARNED[:3], status="diverged")
    notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    text = page().text
    # published 0.97453 +- 0.00055 (population), ours 0.974, at epoch 10
    assert (
        "CorInfoMax test accuracy epoch 10 0.9745 ± 0.0006 (n = 10) 0.9740 (n = 1) −0.0005"
        " undecided" in text
    )
    assert (
        "1 / 9 runs finished" in text
        and "0 + 1 collapsed + diverged" in text
        and "7 missing" in text
    )
    assert "make reproduce-figures PRESET=desk PAPER=corinfomax ONLY='mnist/*'" in text
    assert "Diverged, in no mean: CorInfoMax seed 10." in text


def test_cards_count_primary_values_by_verdict_and_each_once(home, write, inline):
    """Two rules, ten and fifty epochs, at five check points each: two values, not eleven."""
    for seed, shift in ((0, 0.0), (10, 0.0002), (20, -0.0002)):
        write("desk", "corinfomax", seed, LEARNED + 0.0005 + shift)
        write("desk", "ep", seed, np.full(50, 0.95 + shift))
    notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    contents = report._contents("desk")
    assert contents["n_claims"] == 11 and len(contents["headlines"]) == 2
    assert contents["values"] == {
        "agrees": 1,  # 0.9745 against 0.97453 +- 0.00058
        "differs slightly": 0,
        "differs": 1,  # 0.95 against 0.97616 +- 0.00085
        "undecided": 0,
    }
    assert "1 / 2 compared values agree; 0 differ slightly, 1 differ, 0 undecided" in page().text


def test_a_figure_without_results_has_a_place_on_the_page_with_the_command_that_makes_it(
    home, inline
):
    notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    found = page()
    assert (
        "no results yet; this command makes them: make reproduce-figures PRESET=desk" in found.text
    )
    assert not found.images
    assert "0 / 9 runs finished" in found.text


def test_a_notebook_that_was_never_drawn_has_a_place_on_the_page(home):
    notebook(home, "corinfomax_fig_a", FIGURE)
    assert "not drawn yet; this command does it: make report PRESET=desk" in page().text


def test_a_failed_run_is_on_the_page_with_its_error(home, write):
    run = write("desk", "corinfomax", 0, LEARNED)
    failed = run.folder.with_name(
        next(r.id for r in experiment.load("corinfomax", "mnist", "desk").runs if r.seed == 10)
    )
    identity = {"id": failed.name}
    results.fail(results.begin(failed, identity), identity, "not enough <memory>")
    text = page().text
    assert f"{failed.name} failed: not enough <memory>" in text and "1 failed: see below" in text


def test_a_damaged_result_is_on_the_page_and_does_not_take_the_rest_with_it(home, write):
    run = write("desk", "corinfomax", 0, LEARNED)
    results.collect(run.experiment_folder)
    collected = run.experiment_folder.with_name("mnist.pkl")
    collected.write_bytes(collected.read_bytes()[:-100])
    assert "Could not be read: corinfomax, mnist:" in page().text


def test_a_damaged_run_is_named_on_the_page_and_does_not_take_the_rest_with_it(home, write):
    good, bad = (write("desk", "corinfomax", seed, LEARNED) for seed in (0, 10))
    (bad.folder / "result.pkl").write_bytes(b"")
    text = page().text
    assert "1 / 9 runs finished" in text and "Could not be read: corinfomax, mnist:" in text
    assert bad.folder.name in text and "is damaged or was changed" in text


def test_equal_results_give_an_equal_page(home, write, inline):
    write("desk", "corinfomax", 0, LEARNED)
    notebook(home, "corinfomax_fig_a", FIGURE)
    redraw()
    first = report.render("desk").read_bytes()
    assert report.render("desk").read_bytes() == first


def test_unknown_presets_papers_and_notebooks_are_refused(home):
    notebook(home, "corinfomax_fig_a", FIGURE)
    with pytest.raises(BioplausError, match="unknown preset 'dekst'.*did you mean 'desk'"):
        list(report.draw("dekst"))
    with pytest.raises(BioplausError, match="unknown paper 'corinfo'"):
        list(report.draw("desk", ["corinfo"]))
    with pytest.raises(BioplausError, match="unknown notebook 'corinfomax_fig_b'"):
        list(report.draw("desk", only="corinfomax_fig_b"))


def test_the_analysis_notebooks_draw_every_preset_with_and_without_results(
    home, write, inline, monkeypatch
):
    """The manifest here has one experiment of the table: only its figures are drawn."""
    monkeypatch.setattr(figures, "CURVES", {**dict.fromkeys(figures.CURVES, ()), "MNIST": MNIST})
    name = "corinfomax_fig_curves.ipynb"
    (home / "notebooks" / name).write_bytes((ROOT / "notebooks" / name).read_bytes())
    for entry, test, angles in (
        ("corinfomax", [0.5, 0.8, 0.85, 0.9], {1: 90.0, 21: 88.0}),
        ("ep", [0.6, 0.8, 0.1, 0.1], None),
        ("toy", [0.7] * 4, None),
    ):
        write("quick", entry, 0, test, angles=angles)
    # without results two figures show the published alone
    for preset, n_images in (("quick", 4), ("smoke", 2)):
        assert redraw(preset) == {"corinfomax_fig_curves": ""}
        assert len(pages(preset)["corinfomax.html"].images) == n_images


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*_*_*.ipynb")), ids=lambda p: p.stem
)
def test_a_notebook_saves_under_its_own_name(path):
    """The page finds what a notebook drew by the name that its `Output` was given."""
    cells = json.loads(path.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert f'analysis.Output("{path.stem}", preset)' in source


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*_fig*.ipynb")), ids=NAME)
def test_a_figure_notebook_has_an_equation_a_figure_and_the_limits_of_what_it_shows(path):
    cells = json.loads(path.read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    assert texts[0].startswith("# ") and texts[0].count("$$") == 2
    assert any("out.figure(" in text for text in texts)
    assert texts[-1].startswith("## What it shows, and what it does not\n\n")


def test_a_worker_that_dies_is_reported_for_its_notebook(home, monkeypatch):
    found = drawing.Notebook(notebook(home, "corinfomax_fig_a", FIGURE), "corinfomax", "desk")
    monkeypatch.setattr(
        notebooks, "execute", lambda *_, **__: (_ for _ in ()).throw(RunError("its kernel died"))
    )
    assert drawing._draw_one(found) == "its kernel died"
    assert drawing.Notebook(found.path, "corinfomax", "desk").state["status"] == "failed"


def _dies_for_the_second(found):
    """Stands in for `drawing._draw_one`, in the process that draws."""
    if found.name.endswith("_b"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)  # so that others are being drawn, or wait, when one dies
    return ""


@pytest.mark.slow
def test_a_process_that_dies_while_drawing_fails_its_own_notebook_only(home, monkeypatch):
    for letter in "abc":
        notebook(home, f"corinfomax_fig_{letter}", FIGURE)
    monkeypatch.setattr(drawing, "_draw_one", _dies_for_the_second)
    lines = sorted(line.split("] ")[1] for line in report.draw("desk", workers=2))
    assert lines[:2] == ["drawn  corinfomax_fig_a", "drawn  corinfomax_fig_c"]
    assert lines[2:] == ["failed corinfomax_fig_b: the process that drew it died"]
    state = json.loads(
        (home / "Results" / "desk" / "notebooks" / "corinfomax_fig_b.json").read_text()
    )
    assert state["status"] == "failed"


@pytest.mark.slow
def test_notebooks_are_executed_in_kernels_side_by_side(home):
    """Real kernels and processes; the notebooks need no bioplaus, so that they start quickly."""
    for letter in "abc":
        notebook(
            home,
            f"corinfomax_fig_{letter}",
            "print('made by', preset)",
            "1 / 0" if letter == "b" else "2 + 2",
        )
    lines = sorted(line.split("] ")[1] for line in report.draw("desk", workers=2))
    assert lines[:2] == ["drawn  corinfomax_fig_a", "drawn  corinfomax_fig_c"]
    assert lines[2].startswith("failed corinfomax_fig_b: ") and "ZeroDivisionError" in lines[2]
    copy = json.loads(
        (home / "Results" / "desk" / "notebooks" / "corinfomax_fig_a.ipynb").read_text()
    )
    printed = [
        "".join(out.get("text", [])) for cell in copy["cells"] for out in cell.get("outputs", [])
    ]
    assert "made by desk\n" in printed
