"""ROC and PRO curves as inline SVG, and the areas under them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reports.page.charts import svg

Rates = npt.NDArray[np.float64]
# Sides of a plot in pixels, and how far apart points must lie to be drawn.
_LEFT, _TOP, _SIDE, _STEP = 36, 8, 110, 0.7


def roc(normal: Sequence[float], anomalous: Sequence[float]) -> Rates:
    """Returns the ROC curve of image scores, ``[2, K]``: false- and true-positive rate, from 0 to 1.

    Args:
        normal: scores of normal images, at least one.
        anomalous: scores of anomalous images, at least one.
    """
    at = np.unique([*normal, *anomalous])
    rates = [1 - np.searchsorted(np.sort(own), at) / len(own) for own in (normal, anomalous)]
    return np.stack([np.append(0.0, rate[::-1]) for rate in rates])


def until(curve: Rates, limit: float) -> Rates:
    """Returns a curve ``[2, K]``, ascending from (0, 0) to (1, 1), up to a false-positive rate."""
    x, y = curve
    inside = x <= limit
    return np.stack([np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))])


def area(curve: Rates) -> float:
    """Returns the area under a curve ``[2, K]``, divided by its width."""
    x, y = curve
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / x[-1])


def curve_svg(curve: Rates, y_title: str, title: str) -> str:
    """Returns a curve over the false-positive rate, and the diagonal of a method that guesses.

    Args:
        curve: ``[2, K]``, ascending from (0, 0), up to any false-positive rate.
        y_title: what the curve shows.
        title: what the chart says to those who cannot see it.
    """
    limit = float(curve[0, -1])
    points = np.stack([_LEFT + _SIDE * curve[0] / limit, _TOP + _SIDE * (1 - curve[1])], axis=1)
    drawn = [points[0]]
    for point in points[1:-1]:
        if np.abs(point - drawn[-1]).max() >= _STEP:
            drawn.append(point)
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in [*drawn, points[-1]])
    bottom, right, middle = _TOP + _SIDE, _LEFT + _SIDE, _LEFT + _SIDE / 2
    parts = [
        f'<path class="grid" d="M{_LEFT} {bottom}L{right} {bottom - limit * _SIDE:g}"/>',
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        f'<path class="front" d="M{line}"/>',
        f'<text class="end" x="{_LEFT - 4}" y="{_TOP + 9}">1</text>',
        f'<text class="end" x="{_LEFT - 4}" y="{bottom}">0</text>',
        f'<text class="mid" x="{_LEFT}" y="{bottom + 14}">0</text>',
        f'<text class="mid" x="{right - 3}" y="{bottom + 14}">{limit:g}</text>',
        f'<text class="mid" x="{middle}" y="{bottom + 14}">FPR</text>',
        f'<text class="mid" transform="translate(12 {_TOP + _SIDE / 2}) rotate(-90)">{y_title}</text>',
    ]
    about = f"{y_title} against the false-positive rate, which runs from 0 to {limit:g}."
    return svg(right + 6, bottom + 18, title, about, parts)
