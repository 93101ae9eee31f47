"""What moves scores without making them worse, and must not pass for nothing: a metric, the seeds, the code.

Another library or machine shifts the scores of every seed at random. What is found here no such shift does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.checks.regression.baseline import SCORES
from harness.checks.regression.comparison import Case
from harness.checks.regression.explain import environment_changes
from harness.checks.regression.scores import ROUNDING, UNCHANGED, without_spread

# The last of the decimals that a baseline has.
_LAST_DIGIT = 0.0001
# What may differ between two environments that give the same bits: the commit is what is checked.
_FREE = {"git"}
Environments = Mapping[str, dict[str, Any]]


def judge_changes(
    cases: Sequence[Case], environments: tuple[Environments, Environments], exact: bool
) -> list[str]:
    """Adds to cases in which way their scores changed.

    Args:
        cases: those with new results.
        environments: of the baseline and of the new results, by digest.
        exact: whether scores must be the same to the last digit where nothing but the code may have changed.

    Returns:
        What is to be said of all cells together.
    """
    moved = []
    for case in cases:
        if case.now is None:
            continue
        case.changes += [text for text in (_same_maps(case), _same_seeds(case)) if text]
        if not _moved(case):
            continue
        before, after = environments
        elsewhere = environment_changes(case.cell, case.now, before, after).keys() - _FREE
        if not elsewhere:
            moved.append(case)
        elif exact:
            case.notes.append(f"not compared to the last digit: other {', '.join(sorted(elsewhere))}")
    if exact:
        for case in moved:
            largest = max(float(np.abs(change).max()) for change in case.differences.values())
            case.changes.append(
                f"seeds moved by up to {largest:.4g} points on the same hardware and packages (--exact)"
            )
    elif moved:
        return [
            f"{len(moved)} cells have other scores than the baseline, on the same hardware and packages: "
            "--exact makes that an answer"
        ]
    return []


def _moved(case: Case) -> bool:
    return any(np.abs(change).max() >= ROUNDING for change in case.differences.values())


def _same_maps(case: Case) -> str:
    """Where no seed's AUROC moved by a digit, maps are the same: another AUPRO is another metric."""
    still = [name for name in ("image_auroc", "pixel_auroc") if name in case.differences]
    if len(still) < 2 or "aupro" not in case.differences:
        return ""
    if any(np.abs(case.differences[name]).max() >= _LAST_DIGIT / 2 for name in still):
        return ""
    largest = float(np.abs(case.differences["aupro"]).max())
    if largest < ROUNDING:
        return ""
    return (
        f"{SCORES['aupro']} moved by up to {largest:.4g} points while image and pixel AUROC of every seed "
        "are the same: the metric changed, not the maps"
    )


def _same_seeds(case: Case) -> str:
    """Seeds that differed in the baseline and agree now."""
    if case.now is None or not without_spread(case.now):
        return ""
    seeds = next(iter(case.now.scores.values())).seeds
    before = [[v for s in seeds for v in score.seeds.get(s, [])] for score in case.cell.scores.values()]
    if all(not values or max(values) - min(values) < UNCHANGED for values in before):
        return ""
    return (
        f"seeds {', '.join(seeds)} have the same scores now and differed in the baseline: is the seed used?"
    )
