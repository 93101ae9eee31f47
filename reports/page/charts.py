"""Charts as inline SVG: in the colours of the page's style sheet, so that they follow dark and light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from harness.common.text import visible


@dataclass(frozen=True)
class Point:
    """A method in a scatter plot: ``x`` above 0, ``y`` in percent."""

    name: str
    x: float
    y: float


def pareto(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other beats in both directions, by ascending ``x``."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front[::-1]


def scatter_svg(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Returns a scatter plot with logarithmic x, the Pareto front marked and its members named.

    Args:
        points: at least one.
        x_title: of the axis, with its unit; more is better.
        y_title: likewise, in percent.
    """
    left, top, width, height = 52, 14, 520, 250
    lowest, highest = min(p.x for p in points) / 1.3, max(p.x for p in points) * 1.3
    ticks = _log_ticks(lowest, highest)
    floor, ceiling = _range([p.y for p in points])

    def x(value: float) -> float:
        return left + width * math.log(value / lowest) / math.log(highest / lowest)

    def y(value: float) -> float:
        return top + height * (1 - (value - floor) / (ceiling - floor))

    parts = [f'<path class="axis" d="M{left} {top}V{top + height}H{left + width}"/>']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{top + height}"/>')
        parts.append(f'<text class="mid" x="{x(tick):.1f}" y="{top + height + 18}">{tick:g}</text>')
    step = (ceiling - floor) / 4
    for tick in (floor + step * i for i in range(5)):
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{left + width}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>')
    front = pareto(points)
    if len(front) > 1:
        line = "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in front)
        parts.append(f'<path class="front" d="M{line}"/>')
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: p not in front):
        on_front = point in front
        px, py = x(point.x), y(point.y)
        name = visible(point.name)
        said = escape(f"{name}: {point.x:.3g}, {point.y:.1f} %")
        mark = (
            f'<circle class="on" cx="{px:.1f}" cy="{py:.1f}" r="5"/>'
            if on_front
            else f'<path class="off" d="M{px - 4:.1f} {py - 4:.1f}h8v8h-8z"/>'
        )
        parts.append(f"<g>{mark}<title>{said}</title></g>")
        if on_front or len(points) <= 15:
            row = _free_row(taken, px, py)
            flip = px > left + width * 0.75
            label = escape(name if len(name) <= 28 else f"{name[:27]}…")
            place = f'class="end" x="{px - 9:.1f}"' if flip else f'x="{px + 9:.1f}"'
            parts.append(f'<text {place} y="{row + 4:.1f}">{label}</text>')
    bottom = top + height + 40
    parts.append(f'<text class="mid" x="{left + width / 2}" y="{bottom}">{escape(x_title)}</text>')
    parts.append(
        f'<text class="mid" transform="translate(13 {top + height / 2}) rotate(-90)">{escape(y_title)}</text>'
    )
    named = ", ".join(visible(p.name) for p in front)
    about = f"{len(points)} methods. On the Pareto front, from slow to fast: {named}."
    return svg(left + width + 16, bottom + 8, f"{y_title} against {x_title}", about, parts)


def intervals_svg(rows: Sequence[tuple[str, float, float | None, float | None]], title: str) -> str:
    """Returns a dot plot of values with their intervals around a line at zero.

    Args:
        rows: name, value, lower and upper end (``None``: no interval).
        title: of the axis, with its unit.
    """
    left, top, width, step = 190, 10, 380, 24
    ends = [v for _, value, low, high in rows for v in (0.0, value, low, high) if v is not None]
    lowest, highest = min(ends), max(ends)
    margin = max((highest - lowest) * 0.06, 0.5)
    lowest, highest = lowest - margin, highest + margin

    def x(value: float) -> float:
        return left + width * (value - lowest) / (highest - lowest)

    bottom = top + step * len(rows)
    parts = [f'<path class="axis" d="M{x(0):.1f} {top}V{bottom}"/>']
    for tick in _ticks(lowest, highest):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>')
        parts.append(f'<text class="mid" x="{x(tick):.1f}" y="{bottom + 16}">{tick:+g}</text>')
    for place, (name, value, low, high) in enumerate(rows):
        y = top + step * (place + 0.5)
        shown = visible(name)
        label = escape(shown if len(shown) <= 26 else f"{shown[:25]}…")
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{label}</text>')
        if low is not None and high is not None:
            parts.append(f'<path class="range" d="M{x(low):.1f} {y:.1f}H{x(high):.1f}"/>')
        parts.append(f'<circle class="on" cx="{x(value):.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(f'<text class="mid" x="{left + width / 2}" y="{bottom + 36}">{escape(title)}</text>')
    about = "; ".join(f"{visible(n)} {v:+.1f}" for n, v, _, _ in rows)
    return svg(left + width + 16, bottom + 44, title, about, parts)


def histogram_svg(normal: Sequence[float], anomalous: Sequence[float], title: str) -> str:
    """Returns two histograms over one axis: scores of normal images above it, of anomalous ones below.

    Args:
        normal: scores of normal images.
        anomalous: scores of anomalous images.
        title: what it says to those who cannot see it.
    """
    bins, width, top, half = 24, 200, 16, 44
    everything = [*normal, *anomalous]
    low, high = min(everything), max(everything)
    scale = (high - low) or 1.0
    parts = []
    for scores, sign, kind in ((normal, -1, "off"), (anomalous, 1, "on")):
        counts = [0] * bins
        for score in scores:
            counts[min(int((score - low) / scale * bins), bins - 1)] += 1
        most = max(counts) or 1
        for place, count in enumerate(counts):
            if count:
                size = half * count / most
                y = top + half + (-size if sign < 0 else 1)
                parts.append(
                    f'<path class="{kind}" d="M{place * width / bins:.1f} {y:.1f}h{width / bins - 1:.1f}'
                    f'v{size:.1f}h-{width / bins - 1:.1f}z"/>'
                )
    bottom = top + 2 * half + 30
    parts += [
        f'<path class="axis" d="M0 {top + half + 0.5}H{width}"/>',
        f'<text x="0" y="11">{len(normal)} normal</text>',
        f'<text x="0" y="{bottom - 16}">{len(anomalous)} anomalous</text>',
        f'<text x="0" y="{bottom}">{low:.3g}</text>',
        f'<text class="mid" x="{width / 2}" y="{bottom}">score</text>',
        f'<text class="end" x="{width}" y="{bottom}">{high:.3g}</text>',
    ]
    about = f"{len(normal)} normal scores above the line, {len(anomalous)} anomalous ones below it."
    return svg(width, bottom + 4, title, about, parts)


def svg(width: float, height: float, title: str, about: str, parts: Sequence[str]) -> str:
    """Returns a chart of parts, which say their name and what they are about to those who cannot see."""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'aria-label="{escape(visible(title))}. {escape(about)}">' + "".join(parts) + "</svg>"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis in percent around values, on fives."""
    floor, ceiling = 5 * math.floor(min(values) / 5), 5 * math.ceil(max(values) / 5)
    return (floor, ceiling) if ceiling > floor else (max(floor - 5, 0), floor + 5)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return ticks or [round((low * high) ** 0.5, 2)]


def _free_row(taken: list[tuple[float, float]], x: float, y: float) -> float:
    """Moves a label up or down until it stands clear of those placed before."""
    for shift in (0, -14, 14, -28, 28, -42, 42):
        if all(abs(y + shift - other) >= 13 or abs(x - across) > 130 for across, other in taken):
            taken.append((x, y + shift))
            return y + shift
    return y
