"""Pages of the harness's own, from templates beside the code that fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, **values: Any) -> str:
    """Returns a page as HTML; text in ``values`` is escaped, and a name that is missing is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template(template.name).render(**values)
