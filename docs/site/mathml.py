"""Equations: a fenced block named `math` becomes MathML, which browsers draw without a script or a font."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, *_: Any, **__: Any) -> str:
    """Returns each paragraph of LaTeX as one displayed equation; called by pymdownx.superfences."""
    found = "".join(convert(part.strip(), display="block") for part in source.strip().split("\n\n"))
    # A reader by keyboard can scroll what is wider than a phone.
    return f'<div class="math" tabindex="0" role="group" aria-label="Equations">{found}</div>'
