"""Figures as inline SVG, in the colour of the text around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.common.text import visible


def critical_difference_svg(methods: Sequence[str], average: Sequence[float], critical: float) -> str:
    """Returns a critical-difference diagram; bars join what Nemenyi's test does not separate.

    Args:
        methods: names.
        average: the average rank of each, 1 is best.
        critical: the critical difference, in ranks.
    """
    methods = [visible(name) for name in methods]
    short = [name if len(name) <= 40 else f"{name[:39]}…" for name in methods]
    order = sorted(range(len(methods)), key=lambda m: (average[m], methods[m]))
    left, width, step = 20, 360, 22
    scale = width / (len(methods) - 1)

    def x(rank: float) -> float:
        return left + (rank - 1) * scale

    parts = [f'<path d="M{left} 40H{left + width}"/>']
    for rank in range(1, len(methods) + 1):
        parts.append(f'<path d="M{x(rank):.1f} 35v10"/><text x="{x(rank):.1f}" y="30">{rank}</text>')
    y = 54
    for first, last in tied_groups([average[m] for m in order], critical):
        low, high = x(average[order[first]]), x(average[order[last]])
        parts.append(f'<path class="tie" stroke-width="4" d="M{low - 3:.1f} {y}H{high + 3:.1f}"/>')
        y += 8
    for place, m in enumerate(order):
        # The worst on top: so no line crosses another's.
        row = y + 14 + (len(methods) - 1 - place) * step
        label = f"{escape(short[m])} ({average[m]:.2f})"
        parts.append(f'<path d="M{x(average[m]):.1f} 40V{row}H{left + width + 8}"/>')
        parts.append(f'<text x="{left + width + 12}" y="{row + 4}" style="text-anchor:start">{label}</text>')
    height = y + 14 + len(methods) * step
    said = ", ".join(f"{methods[m]} {average[m]:.2f}" for m in order)
    longest = max(len(name) for name in short) + 7
    return (
        f'<svg role="img" viewBox="0 0 {left + width + 20 + 8 * longest} {height}" '
        f'width="{left + width + 20 + 8 * longest}" style="max-width:100%" fill="none" stroke="currentColor">'
        "<title>Critical-difference diagram</title>"
        f"<desc>Average ranks, 1 is best: {escape(said)}. Critical difference {critical:.2f}.</desc>"
        '<g font-size="13" text-anchor="middle">'
        + "".join(part.replace("<text ", '<text fill="currentColor" stroke="none" ') for part in parts)
        + "</g></svg>"
    )


def tied_groups(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """Returns first and last place of each longest run of ranks that lie within the critical difference.

    Args:
        ranks: average ranks, ascending.
        critical: the critical difference, in ranks.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
