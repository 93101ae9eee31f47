"""Times and memory beside their baseline, on the same hardware only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.checks.regression import significance
from harness.checks.regression.baseline import COSTS
from harness.checks.regression.comparison import Case, CellGroup
from harness.checks.regression.significance import Array
from harness.checks.regression.verdict import Compared

# Level of each Mann–Whitney test, and the false-discovery rate of the t tests that know the others' noise.
SPEED_LEVEL = 0.01
SPEED_DISCOVERY = 0.001
# The least margin where there are too few runs to test.
SLOWER_FEW = 1.25
# Seconds below which no time is called worse: a call takes so long to be scheduled.
BLINK = 0.05
# So many cells tell what the whole machine does.
_MACHINE = 5
# Memory: factor and MiB, both to be exceeded. The host's peak has imports and file caches in it.
MEMORY = {"memory_device": (1.10, 64.0), "memory_host": (1.30, 512.0)}


@dataclass(frozen=True)
class _Timed:
    """One time of one cell on one machine: runs of the baseline and new ones, with their quotient."""

    case: Case
    old: Array
    new: Array
    ratio: float


def judge_costs(cases: Sequence[Case], slower: float) -> list[CellGroup]:
    """Compares every cost of cases, and adds what was found to them.

    Args:
        cases: those with new results.
        slower: quotient of times from which a slow-down counts, e.g. 1.05.

    Returns:
        For each machine a group of all its cells: whether everything takes longer.
    """
    tested: dict[tuple[str, str], list[_Timed]] = defaultdict(list)
    for case in cases:
        for name in sorted(case.cell.costs.keys() & (case.now.costs.keys() if case.now else set())):
            for cost in COSTS:
                _one(case, name, cost, tested, slower)
    groups: dict[str, CellGroup] = {}
    for (name, cost), timed in sorted(tested.items()):
        common = float(np.median([t.ratio for t in timed])) if len(timed) >= _MACHINE else 1.0
        if len(timed) >= _MACHINE:
            group = groups.setdefault(name, CellGroup(f"all cells on {name}", [t.case for t in timed]))
            rule = f"median over {len(timed)} cells, at least {_percent(slower)}"
            totals = [float(sum(np.median(side) for side in sides)) for sides in _sides(timed)]
            group.costs.append(
                _compared(name, cost, totals[0], totals[0] * common, len(timed), rule, common >= slower)
            )
        _test(name, cost, timed, max(common, 1.0), slower)
    return list(groups.values())


def _one(
    case: Case, name: str, cost: str, tested: dict[tuple[str, str], list[_Timed]], slower: float
) -> None:
    if case.now is None:
        return
    old, new = (np.array(getattr(cell.costs[name], cost)) for cell in (case.cell, case.now))
    # Older baselines have times of 0, which nobody took.
    old, new = old[old > 0], new[new > 0]
    if not len(old) or not len(new):
        return
    if cost not in MEMORY and significance.decidable(len(old), len(new), SPEED_LEVEL):
        tested[name, cost].append(_Timed(case, old, new, significance.slow_down(old, new)))
        return
    factor, least = MEMORY.get(cost, (max(SLOWER_FEW, slower), BLINK))
    base, now = float(np.median(old)), float(np.median(new))
    rule = (
        f"margin {_percent(factor)} and {least:.0f} MiB"
        if cost in MEMORY
        else f"few runs: {_percent(factor)}"
    )
    worse = now > factor * base and now - base > least
    case.costs.append(_compared(name, cost, base, now, len(new), rule, worse))


def _test(name: str, cost: str, timed: Sequence[_Timed], common: float, slower: float) -> None:
    """A cell is slower if it is so beside the others (``common``), by enough, and beyond chance and noise."""
    pairs = [(np.log(t.old), np.log(t.new)) for t in timed]
    beyond = significance.discoveries(significance.longer_p(pairs, float(np.log(common))), SPEED_DISCOVERY)
    rule = f"Mann–Whitney, at least {_percent(slower)}"
    if common > 1.005:
        rule += f" beside all cells' {_percent(common)}"
    for t, noise_exceeded in zip(timed, beyond, strict=True):
        base, now = float(np.median(t.old)), float(np.median(t.new))
        p: float | None = None
        worse = bool(noise_exceeded) and t.ratio / common >= slower and now - base >= BLINK
        if worse:
            p = significance.slow_down_p(t.old * common, t.new)
            worse = p <= SPEED_LEVEL
        t.case.costs.append(_compared(name, cost, base, now, len(t.new), rule, worse, p))


def _sides(timed: Sequence[_Timed]) -> tuple[list[Array], list[Array]]:
    return [t.old for t in timed], [t.new for t in timed]


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):.3g} %"


def _compared(  # noqa: PLR0913 - the fields of a value
    name: str, cost: str, base: float, now: float, count: int, rule: str, worse: bool, p: float | None = None
) -> Compared:
    return Compared(
        what=cost.replace("_", " "),
        unit=COSTS[cost],
        baseline=base,
        now=now,
        count=count,
        hardware=name,
        p=p,
        rule=rule,
        worse=worse,
    )
