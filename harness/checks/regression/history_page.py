"""The page of a history: one self-contained HTML file with a chart for every value of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.checks.regression.history import Course, Night
from harness.common.html import render
from harness.common.text import plain

_WIDTH, _HEIGHT, _EDGE = 420, 90, 6


def history_page(nights: Sequence[Night], courses: Sequence[Course]) -> str:
    """Returns the page as HTML.

    Args:
        nights: the checks, oldest first, at least one.
        courses: of their values, those of a cell together.
    """
    cells = [
        {"name": plain(name), "charts": [_chart(course) for course in own]}
        for name, own in groupby(courses, lambda course: course.cell)
    ]
    changes = [
        (plain(course.cell), plain(course.what), said) for course in courses for said in course.described()
    ]
    last = {"time": plain(nights[-1].time), "answer": nights[-1].answer, "count": len(nights)}
    box = {"width": _WIDTH, "height": _HEIGHT}
    template = Path(__file__).parent / "history.html.j2"
    return render(template, cells=cells, changes=changes, last=last, **box)


def _chart(course: Course) -> dict[str, Any]:
    """Points by their place in the course, the mean between changes as a line, and a mark at each change."""
    values = np.array(course.values)
    low, high = float(values.min()), float(values.max())
    span = high - low
    count = max(len(values) - 1, 1)

    def x(place: float) -> float:
        return round(_EDGE + (_WIDTH - 2 * _EDGE) * place / count, 1)

    def y(value: float) -> float:
        # A value that never moves lies in the middle.
        share = (value - low) / span if span else 0.5
        return round(_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * share, 1)

    edges = [0, *course.changes, len(values)]
    means = [
        (x(a - 0.5 if a else 0), x(b - 0.5 if b < len(values) else b - 1), y(float(values[a:b].mean())))
        for a, b in pairwise(edges)
    ]
    return {
        "what": plain(course.what),
        "points": [(x(place), y(value)) for place, value in enumerate(values.tolist())],
        "means": means,
        "marks": [x(at - 0.5) for at in course.changes],
        "range": f"{low:.4g} to {high:.4g}" if span else f"{low:.4g}",
        "times": [plain(course.times[at][:10]) for at in (0, -1)],
        "last": f"{course.values[-1]:.4g}",
        "changes": list(course.described()),
    }
