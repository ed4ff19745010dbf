"""The picture of the architecture, made from the imports of the code."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LEVELS = (  # from the top down; what is not named is the ground's own
    ("cli",),
    ("papers",),
    ("analysis",),
    ("experiments",),
    ("train", "results", "weights"),
    ("rules",),
    ("nets", "tasks"),
    ("config", "device", "errors", "metrics", "paths"),
)
SHARED = ("errors", "_files", "version", "paths")  # used by nearly all: their arrows say nothing
_TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7"'
    ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
)


def imports() -> dict[tuple[str, str], int]:
    """How many modules of one part import from another, by (from, to)."""
    counted: dict[tuple[str, str], int] = {}
    package = ROOT / "bioplaus"
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        targets = set()
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            first, *rest = node.module.split(".")
            if first == "bioplaus":
                targets |= {rest[0]} if rest else {alias.name for alias in node.names}
        for target in targets - {part}:
            counted[part, target] = counted.get((part, target), 0) + 1
    return counted


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All that runs; what stands under `if TYPE_CHECKING` does not."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from statements(child)


def upward(counted: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The imports that run up; there are none, which the tests hold to."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    return [
        pair
        for pair in counted
        if all(n in level for n in pair) and level[pair[0]] > level[pair[1]]
    ]


def svg(counted: dict[tuple[str, str], int]) -> str:
    """The parts as boxes, level below level, and an arrow for each import; thick where many do."""
    width, row, box_height = 760, 92, 40
    centre: dict[str, tuple[float, float]] = {}
    boxes, size = [], 114
    for number, names in enumerate(LEVELS):
        for place, name in enumerate(names):
            x = width * (place + 1) / (len(names) + 1)
            y = 30 + row * number
            centre[name] = (x, y)
            corner = f'x="{x - size / 2:.0f}" y="{y - box_height / 2:.0f}"'
            boxes.append(
                f'<rect class="box" {corner} width="{size}" height="{box_height}" rx="6"/>'
            )
            boxes.append(f'<text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>')
    arrows = []
    for (start, end), n in sorted(counted.items()):
        if start in centre and end in centre and end not in SHARED:
            (x1, y1), (x2, y2) = centre[start], centre[end]
            if y1 == y2:
                continue
            y1, y2 = y1 + box_height / 2, y2 - box_height / 2 - 5
            middle = (y1 + y2) / 2
            arrows.append(
                f'<path class="arrow" d="M{x1:.0f} {y1:.0f} C{x1:.0f} {middle:.0f} {x2:.0f}'
                f' {middle:.0f} {x2:.0f} {y2:.0f}" stroke-width="{min(1 + n / 6, 4):.1f}"'
                f' marker-end="url(#tip)"><title>{n} files of {start} import {end}</title></path>'
            )
    height = 30 + row * (len(LEVELS) - 1) + box_height
    return (
        f'<svg class="architecture" viewBox="0 0 {width} {height}" role="img"'
        ' aria-label="The parts of the package, and which imports from which: all arrows run down">'
        f"<defs>{_TIP}</defs>" + "".join(arrows + boxes) + "</svg>"
    )


def write(app: Any) -> None:
    """Write the picture for the page to include; an import that runs up stops the build."""
    counted = imports()
    if wrong := upward(counted):
        raise ValueError(f"imports must run down, but {wrong[0][0]} imports {wrong[0][1]}")
    path = ROOT / "docs" / "_generated" / "architecture.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(svg(counted), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
