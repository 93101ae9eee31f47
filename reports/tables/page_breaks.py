"""Splits a table that no page holds: columns into panels, rows into parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

Line = Sequence[str] | str


def panels(widths: Sequence[float], lead: int, line: float) -> list[list[int]]:
    """Returns which columns stand beside each other: as few panels as possible, of about equal many columns.

    Args:
        widths: of each column.
        lead: how many columns at the start name the row; every panel has them.
        line: how wide a panel may be; a single column may be wider.
    """
    others = range(lead, len(widths))
    found: list[list[int]] = []
    for count in range(1, max(len(others), 1) + 1):
        size = max(ceil(len(others) / count), 1)
        found = [[*range(lead), *others[i : i + size]] for i in range(0, max(len(others), 1), size)]
        if all(sum(widths[i] for i in own) <= line for own in found):
            break
    return found


def chunks(rows: Sequence[Line], most: float, cost: Callable[[Sequence[Line]], float]) -> list[list[Line]]:
    """Returns consecutive rows as few parts of about equal height; a block's title comes again in each.

    Args:
        rows: cells; or a string: a rule, or the title of the block that begins there.
        most: how high a part may be.
        cost: height of some rows.
    """
    if cost(rows) <= most:
        return [list(rows)]
    found = _filled(rows, most, cost)
    low, high = 0.0, most
    # The lowest height that needs no more parts.
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_filled(rows, middle, cost)) == len(found) else (middle, high)
    return _filled(rows, high, cost)


def _filled(rows: Sequence[Line], most: float, cost: Callable[[Sequence[Line]], float]) -> list[list[Line]]:
    found: list[list[Line]] = [[]]
    block: list[Line] = []
    waiting: list[Line] = []
    for row in rows:
        if isinstance(row, str):
            waiting.append(row)
            block = block if row.startswith("\\midrule") else [row]
            continue
        if any(not isinstance(old, str) for old in found[-1]) and cost([*found[-1], *waiting, row]) > most:
            found.append([*block, row])
        else:
            found[-1] += [*waiting, row]
        waiting = []
    found[-1] += waiting
    return found
