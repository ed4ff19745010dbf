"""Where the figures and tables of a notebook go.

An `Output` knows its notebook, paper and preset. Beside each figure lies a csv of exactly what it
draws, and a json of what the report page says of it. Files are written whole or not at all, and
equal results give equal bytes.
"""

import dataclasses
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import _files, paths
from bioplaus.analysis import experiment, provenance, style, tables
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.analysis.provenance import Provenance
from bioplaus.errors import unknown
from bioplaus.experiments import manifest

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Runs = RunSet | Provenance | Iterable[RunSet | Provenance]
SUFFIXES = ("json", "png", "webp", "pdf", "csv", "md")
_MOST_WIDTH = 1700  # pixels of a webp
SCHEMA = 3  # of the json beside a figure or table


class Output:
    """The figures and tables of one notebook at one preset; making it sets the package's style.

    Parameters
    ----------
    notebook : its file name without suffix, `<paper>_<what it shows>`.
    preset : whose results it shows: they go to `<results>/<preset>/figures` and `tables`.
    """

    def __init__(self, notebook: str, preset: str) -> None:
        if preset not in manifest.PRESETS:
            raise unknown("preset", preset, manifest.PRESETS)
        self.notebook, self.preset = notebook, preset
        self.paper = notebook.partition("_")[0]
        self._order: dict[str, int] = {}  # name -> as the report page lists them
        style.use_style()

    def figure(
        self,
        name: str,
        drawing: Drawing,
        runs: Runs,
        *,
        title: str,
        caption: str,
        claims: Iterable[Claim] = (),
    ) -> None:
        """Save a figure as png (150 dpi), webp (the same, for the page), pdf and csv, and show it.

        Where there is nothing to draw only the json is written, so that the page says what is
        missing and which command makes it; files of an earlier drawing are removed.

        Parameters
        ----------
        name : of the files, beginning with the paper's key.
        runs : what is drawn rests on these.
        caption : preset, data sets and how to read the lines are added.
        claims : what it shows beside published numbers.
        """
        files = {}
        if drawing.figure is not None:
            drawing.figure.draw_without_rendering()  # lay out once, not for each format
            drawing.figure.set_layout_engine("none")
            files = {kind: _render(drawing.figure, kind) for kind in ("png", "pdf")}
            # for the page: a third of the size, and no wider than it can show
            files["webp"] = _smaller(files["png"], _MOST_WIDTH, "webp", quality=80, method=2)
            files["csv"] = csv(drawing.data)
        source = self._provenance(runs)
        caption = " ".join(filter(None, [caption, source.sentence, drawing.reading]))
        self._store("figure", name, files, source, title, caption, claims)
        if drawing.figure is not None:
            _show(drawing.figure, files["png"])

    def table(
        self, name: str, claims: Iterable[Claim], runs: Runs, *, title: str, caption: str
    ) -> "pandas.DataFrame":
        """Save claims as a table: csv (full numbers) and Markdown (as read), and return it as read.

        With no result at all, and none published alone, only the json is written.
        """
        import pandas

        claims, files, source = list(claims), {}, self._provenance(runs)
        readable = tables.comparison(claims)
        if source.has_content:
            numbers = pandas.DataFrame([dataclasses.asdict(claim) for claim in claims])
            files = {"csv": csv(numbers), "md": tables.markdown(readable).encode()}
        caption = f"{caption} {source.sentence}"
        self._store("table", name, files, source, title, caption, claims)
        return readable

    def frame(
        self,
        name: str,
        readable: "pandas.DataFrame",
        numbers: "pandas.DataFrame",
        runs: Runs,
        *,
        title: str,
        caption: str,
    ) -> "pandas.DataFrame":
        """As `table`, for a table that compares nothing with published numbers.

        Parameters
        ----------
        readable : what is read, one text a cell; returned.
        numbers : what is behind it, for the csv.
        """
        source, files = self._provenance(runs), {}
        if source.has_content:
            files = {"csv": csv(numbers), "md": tables.markdown(readable).encode()}
        rows = {"columns": list(readable.columns), "rows": readable.astype(str).values.tolist()}
        self._store("table", name, files, source, title, f"{caption} {source.sentence}", (), rows)
        return readable

    def _provenance(self, runs: Runs) -> Provenance:
        parts = [runs] if isinstance(runs, RunSet | Provenance) else list(runs)
        return provenance.merged(
            [part.provenance if isinstance(part, RunSet) else part for part in parts]
        )

    def _store(
        self,
        kind: str,
        name: str,
        files: Mapping[str, bytes],
        source: Provenance,
        title: str,
        caption: str,
        claims: Iterable[Claim],
        rows: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the files, by suffix, then `<name>.json`, which makes it appear on the report page.

        What an earlier drawing left under this name is removed first.
        """
        folder = paths.root() / self.preset / f"{kind}s"
        _files.make_folder(folder)
        for suffix in SUFFIXES:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        for suffix, content in files.items():
            _files.write_atomic(folder / f"{name}.{suffix}", content)
        description = {
            "schema": SCHEMA,
            "kind": kind,
            "name": name,
            "notebook": self.notebook,
            "order": self._order.setdefault(name, len(self._order)),
            "title": title,
            "caption": caption,
            "files": sorted(files),
            "loaded": experiment.loaded(self.paper),
            **dataclasses.asdict(source),
            **(rows or {}),
            "claims": [dataclasses.asdict(claim) for claim in claims],
        }
        _files.write_json(folder / f"{name}.json", _jsonable(description))


def csv(table: "pandas.DataFrame") -> bytes:
    """A table as csv text: ten significant digits, \\n at line ends; equal tables give equal
    bytes.
    """
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()


def described(preset: str, paper: str) -> list[dict[str, Any]]:
    """What was saved of a paper at a preset, one description a figure or table, each with its
    "path", a json file. What another version of the package described is left out.
    """
    descriptions = []
    for kind in ("figures", "tables"):
        for path in sorted((paths.root() / preset / kind).glob(f"{paper}_*.json")):
            description = _files.read_json(path)
            if isinstance(description, dict) and description.get("schema") == SCHEMA:
                descriptions.append({**description, "path": path})
    return descriptions


def _render(figure: "Figure", kind: str) -> bytes:
    """The file's bytes, without dates and version, so that equal figures are equal files.

    What `Figure.savefig` gives, which draws everything twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    buffer, canvas, dpi = io.BytesIO(), figure.canvas, figure.dpi
    figure.dpi = style.DPI
    try:
        if kind == "png":
            FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        else:
            metadata = {"CreationDate": None, "Producer": None, "Creator": None}
            FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi
    return buffer.getvalue()


def _show(figure: "Figure", png: bytes) -> None:
    """Show a figure under its cell: the saved picture, which need not be drawn once more."""
    from IPython.display import Image, display
    from matplotlib import pyplot as plt

    width = round(figure.get_figwidth() * figure.dpi)
    display(Image(_smaller(png, width, "png"), width=width))
    plt.close(figure)


def _smaller(png: bytes, width: int, kind: str, **options: Any) -> bytes:
    """The same picture, at most so many pixels wide, in another format."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((width, small.height))
        small.save(buffer, kind, **options)
    return buffer.getvalue()


def _jsonable(value: Any) -> Any:
    """NaN and infinity become null, numpy numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
