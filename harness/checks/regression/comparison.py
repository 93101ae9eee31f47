"""A cell of the baseline on its way to its verdict, with what the new results have for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from harness.checks.regression.baseline import SCORES, Baseline, BaselineCell, ScoreName
from harness.checks.regression.gather import Gathered, incomparable
from harness.checks.regression.significance import Array
from harness.checks.regression.verdict import Answer, Compared


@dataclass
class Case:
    """One cell.

    Attributes:
        cell: of the baseline.
        now: what it is compared with, ``None`` for nothing.
        answer: as far as what is missing decides it.
        reasons: why the answer is not ``ok``.
        changes: what moved in a way that no random change has, in words.
        notes: what else must be known.
        scores: compared scores.
        costs: compared times and memory.
        differences: by metric new − baseline [seeds], percent points.
        bases: by metric the baseline's mean over the same seeds.
    """

    cell: BaselineCell
    now: BaselineCell | None = None
    answer: Answer = "ok"
    reasons: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: list[Compared] = field(default_factory=list)
    costs: list[Compared] = field(default_factory=list)
    differences: dict[ScoreName, Array] = field(default_factory=dict)
    bases: dict[ScoreName, float] = field(default_factory=dict)


@dataclass
class CellGroup:
    """Several cases together: what no single one shows, all may.

    Attributes:
        name: e.g. ``mpdd/*/dfr/strict``.
        members: at least two.
        scores: compared means over the categories.
        costs: compared costs.
    """

    name: str
    members: Sequence[Case]
    scores: list[Compared] = field(default_factory=list)
    costs: list[Compared] = field(default_factory=list)


def match(cell: BaselineCell, found: Gathered) -> BaselineCell | None:
    """Returns the newest comparable cell of new results, else the newest of its slot, if there is any."""
    candidates = [c for c in found.cells if c.slot == cell.slot]
    fitting = [c for c in candidates if not incomparable(cell, c)]
    return next(reversed(fitting or candidates), None)


def open_case(cell: BaselineCell, baseline: Baseline, found: Gathered) -> Case:
    """Finds what a cell is to be compared with, and says what is missing."""
    now = match(cell, found)
    case = Case(cell)
    failed = found.failed.get(cell.slot, [])
    if now is None:
        case.answer = "nothing measured"
        case.reasons = failed[:1] or ["no run of this cell is in the results"]
        if len(failed) > 1:
            case.reasons.append(f"{len(failed) - 1} more failed")
        return case
    if why := incomparable(cell, now, (baseline.fingerprints, found.fingerprints)):
        case.answer, case.reasons = "not comparable", why
        return case
    case.now = now
    case.notes += failed[:1]
    for metric, score in cell.scores.items():
        seeds = now.scores[metric].seeds if metric in now.scores else {}
        if missing := sorted(score.seeds.keys() - seeds.keys(), key=_as_number):
            case.answer = "not comparable"
            case.reasons.append(f"{SCORES[metric]} was not measured for seed {', '.join(missing)}")
        if common := sorted(score.seeds.keys() & seeds.keys(), key=_as_number):
            old, new = (np.array([fmean(side[seed]) for seed in common]) for side in (score.seeds, seeds))
            case.differences[metric], case.bases[metric] = new - old, float(old.mean())
    if not case.differences:
        case.answer = "nothing measured"
    return case


def over_categories(cases: Sequence[Case]) -> list[CellGroup]:
    """Returns the methods that were measured on two categories or more of a dataset."""
    members: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.differences:
            members[case.cell.model_copy(update={"category": "*"}).name].append(case)
    return [CellGroup(name, ones) for name, ones in sorted(members.items()) if len(ones) > 1]


def _as_number(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdecimal() else 0, seed)
