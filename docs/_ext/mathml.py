"""Formulae as MathML, which current browsers render without scripts, fonts or network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx


def draw_inline(writer: Any, node: nodes.math) -> None:
    """Write an inline formula."""
    writer.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def draw_block(writer: Any, node: nodes.math_block) -> None:
    """Write a displayed formula."""
    text = latex2mathml.tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="math" role="math">{text}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (draw_inline, None), (draw_block, None))
    return {"parallel_read_safe": True}
