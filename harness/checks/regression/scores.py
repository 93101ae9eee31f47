"""Scores beside their baseline: which loss is one, and which rise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.checks.regression import significance
from harness.checks.regression.baseline import SCORES, BaselineCell, ScoreName
from harness.checks.regression.comparison import Case, CellGroup
from harness.checks.regression.verdict import Compared

# False-discovery rate over all tests of scores of a check.
FALSE_DISCOVERY = 0.0025
# The same for rises, which nobody is woken for: they take the smaller part of the false alarms.
FALSE_RISE = 0.001
# Percent points that a method without spread may lose: another machine's arithmetic.
TOLERANCE = 0.1
# Percent points that may be lost where no test is possible: four standard deviations
# where seeds scatter by 0.5.
UNTESTED = 3.0
# Differences of all seeds below this are none.
UNCHANGED = 0.05
# Seeds that differ by less agree; the baseline has four decimals.
ROUNDING = 0.001


@dataclass(frozen=True)
class _Pending:
    """A comparison that waits for the correction over all tests."""

    scores: list[Compared]
    metric: ScoreName
    base: float
    change: float
    typical: float
    count: int
    rule: str
    p: float


def judge_scores(cases: Sequence[Case], groups: Sequence[CellGroup], min_effect: float) -> None:
    """Compares every score of cases and groups, and adds what was found to them.

    A tested loss counts if it is a discovery, if the mean fell by ``min_effect`` percent points, and if the
    median seed lost half of that: one training that went wrong is not a regression. A rise likewise.
    """
    pending: list[_Pending] = []
    tested: list[tuple[Case, ScoreName]] = []
    for metric in SCORES:
        for case in cases:
            if metric in case.differences:
                if decided := _without_test(case, metric, min_effect):
                    case.scores.append(decided)
                else:
                    tested.append((case, metric))
    kinds = [list(SCORES).index(metric) for _, metric in tested]
    losses = significance.Losses([case.differences[metric] for case, metric in tested], kinds)
    for (case, metric), p, testable in zip(tested, losses.p(), losses.testable, strict=True):
        if testable:
            pending.append(_pending(case, metric, float(p)))
        else:
            case.scores.append(_by_margin(case, metric, min_effect, "all seeds alike"))
    places = {(id(case), metric): at for at, (case, metric) in enumerate(tested)}
    for group in groups:
        pending += [found for m in SCORES if (found := _group_pending(group, m, losses, places))]
    p = np.array([found.p for found in pending])
    fallen = significance.discoveries(p, FALSE_DISCOVERY)
    risen = significance.discoveries(1 - p, FALSE_RISE)
    for found, fell, rose in zip(pending, fallen, risen, strict=True):
        change, typical, p_value = found.change, found.typical, found.p
        worse = bool(fell) and change <= -min_effect and typical <= -min_effect / 2
        better = bool(rose) and change >= min_effect and typical >= min_effect / 2
        if better:
            p_value = 1 - p_value
        found.scores.append(
            _compared(found.metric, found.base, change, found.count, found.rule, worse, better, p_value)
        )


def _without_test(case: Case, metric: ScoreName, min_effect: float) -> Compared | None:
    """Decides what needs no test: nothing changed, a method without spread, a single seed."""
    change = case.differences[metric]
    mean, base, count = float(change.mean()), case.bases[metric], len(change)
    if np.abs(change).max() < UNCHANGED:
        return _compared(metric, base, mean, count, "unchanged")
    if without_spread(case.cell):
        rule = f"no spread: tolerance {TOLERANCE}"
        return _compared(metric, base, mean, count, rule, mean < -TOLERANCE, mean > TOLERANCE)
    return _by_margin(case, metric, min_effect, "one seed") if count == 1 else None


def _by_margin(case: Case, metric: ScoreName, min_effect: float, why: str) -> Compared:
    """Decides what no test can: how much chance moves it is not known."""
    change = case.differences[metric]
    mean, margin = float(change.mean()), max(UNTESTED, min_effect)
    rule = f"{why}: margin {margin:g}"
    return _compared(metric, case.bases[metric], mean, len(change), rule, mean < -margin, mean > margin)


def without_spread(cell: BaselineCell) -> bool:
    """Whether the method is deterministic: several seeds agree in every score.

    One score alone may agree by chance, or because it is 100 for every seed.
    """
    values = [[v for seed in score.seeds.values() for v in seed] for score in cell.scores.values()]
    several = all(len(score.seeds) > 1 for score in cell.scores.values())
    agree = all(max(score) - min(score) < ROUNDING for score in values)
    return several and agree and any(0 < score[0] < 100 for score in values)


def _pending(case: Case, metric: ScoreName, p: float) -> _Pending:
    change = case.differences[metric]
    mean, median = float(change.mean()), float(np.median(change))
    return _Pending(case.scores, metric, case.bases[metric], mean, median, len(change), "paired t", p)


def _group_pending(
    group: CellGroup, metric: ScoreName, losses: significance.Losses, places: dict[tuple[int, ScoreName], int]
) -> _Pending | None:
    """Tests a method over its categories: over seeds within them, or over the categories themselves.

    Cells that needed no test have no noise of their own here; where they have one seed, categories are the
    units, three or more.
    """
    members = [case for case in group.members if metric in case.differences]
    changes = [case.differences[metric] for case in members]
    means = np.array([change.mean() for change in changes])
    if len(members) < 2 or np.abs(means).max() < UNCHANGED:
        return None
    if min(map(len, changes)) > 1:
        keys = [(id(case), metric) for case in members]
        there = [places[key] for key in keys if key in places]
        p = losses.group_p(there, float(means.mean()), len(members))
        rule, values = "paired t over seeds and categories", np.concatenate(changes)
    elif len(members) > 2:
        p = significance.mean_loss_p(means)
        rule, values = "paired t over categories", means
    else:
        return None
    base = float(np.mean([case.bases[metric] for case in members]))
    mean, median = float(means.mean()), float(np.median(values))
    return _Pending(group.scores, metric, base, mean, median, len(values), rule, p)


def _compared(  # noqa: PLR0913 - the fields of a value
    metric: ScoreName,
    base: float,
    change: float,
    count: int,
    rule: str,
    worse: bool = False,
    better: bool = False,
    p: float | None = None,
) -> Compared:
    return Compared(
        what=SCORES[metric],
        unit="%",
        baseline=round(base, 4),
        now=round(base + change, 4),
        count=count,
        p=p,
        rule=rule,
        worse=worse,
        better=better,
    )
