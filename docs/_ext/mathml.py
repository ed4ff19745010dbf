"""Formulas as MathML, which browsers draw without a script or a font to fetch."""

from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)


def convert(node: nodes.Element, display: str) -> str:
    """The MathML of a formula; one that cannot be converted is a warning, which fails the build."""
    text = node.astext().strip()
    try:
        return latex2mathml.converter.convert(text, display=display)
    except Exception as error:  # whatever the converter meets
        logger.warning("formula %r: %r", text, error, location=node)
        return f"<code>{text}</code>"


def visit_inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(convert(node, "inline"))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="formula">{convert(node, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
