"""Docstrings as Markdown: ``:meth:`name` `` is shown as code; called by griffe for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Takes Sphinx's roles out of docstrings, which the site's Markdown would print."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
