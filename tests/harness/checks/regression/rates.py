"""Simulated nights: how often a check of 45 cells calls what is not there, and misses what is.

`python -m tests.harness.checks.regression.rates 2000` measures docs/check.md's table; the tests take fewer
nights.

Nine methods on five categories, five seeds, three scores. A night in which nothing changed still shifts every
seed at random, as another library does: a hard null, since one seed on one machine mostly gives equal
scores. Times scatter by `noise` from run to run and by `night` from night to night, all cells together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.checks.regression.baseline import SCORES, Baseline, BaselineCell, Hardware, Score
from harness.checks.regression.gather import Gathered
from harness.checks.regression.judge import judge
from harness.checks.regression.verdict import Report, Verdict

METHODS, CATEGORIES = 9, 5
FIRST, METHOD, MACHINE = "d/c0/m0/strict", "d/*/m0/strict", "all cells on machine"


@dataclass(frozen=True)
class World:
    """What is assumed.

    Attributes:
        low: a cell's seeds scatter by a standard deviation from here, in percent points
        high: to here, evenly.
        noise: standard deviation of the logarithm of a run's time.
        night: the same of a night's common factor.
        seeds: runs of a cell.
        skewed: whether seeds scatter as an exponential distribution, its tail downwards, instead of a normal.
        shared: share of a seed's deviation that it has in the baseline too, as where a change is small.
        loss: percent points of image AUROC that the changed cells lose.
        slow: factor of the times of the changed cells.
        changed: how many cells, of the first method first.
    """

    low: float = 0.3
    high: float = 0.5
    noise: float = 0.02
    night: float = 0.01
    seeds: int = 5
    skewed: bool = False
    shared: float = 0.0
    loss: float = 0.0
    slow: float = 1.0
    changed: int = 0


def night(world: World, rng: np.random.Generator) -> Report:
    """Makes a baseline and a night, and checks."""
    count = METHODS * CATEGORIES
    spreads = rng.uniform(world.low, world.high, count)
    levels = rng.uniform(85, 97, (count, len(SCORES)))
    common = rng.normal(0, 1, (count, len(SCORES), world.seeds))
    before = _cells(replace(world, loss=0, slow=1), rng, spreads, levels, common)
    now = _cells(world, rng, spreads, levels, common)
    baseline = Baseline(version="", fingerprints={}, environments={}, cells=before)
    return judge(baseline, Gathered(tuple(now), {}, {}, {}, ()))


def rate(
    world: World, nights: int, event: Callable[[Report], Any], seed: int = 0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the share of nights with an event (or with each of several)."""
    rng = np.random.default_rng(seed)
    return np.mean([np.asarray(event(night(world, rng)), dtype=np.float64) for _ in range(nights)], axis=0)


def false_alarm(report: Report) -> tuple[bool, bool, bool]:
    """Whether any score is called worse or better, any time worse, or any of it."""
    scores = any(score.worse or score.better for verdict in report.verdicts for score in verdict.scores)
    costs = any(cost.worse for verdict in report.verdicts for cost in verdict.costs)
    return scores, costs, scores or costs


def called(report: Report, *names: str) -> bool:
    """Whether one of some rows is not ok."""
    return any(verdict.answer != "ok" for verdict in _rows(report, names))


def _rows(report: Report, names: Sequence[str]) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.name in names]


def _cells(
    world: World, rng: np.random.Generator, spreads: Any, levels: Any, common: Any
) -> list[BaselineCell]:
    pace = np.exp(rng.normal(0, world.night))
    cells = []
    for at in range(len(spreads)):
        own = rng.normal(0, 1, common[at].shape)
        if world.skewed:
            own = 1 - rng.exponential(1, own.shape)
        deviation = world.shared**0.5 * common[at] + (1 - world.shared) ** 0.5 * own
        values = levels[at][:, None] + spreads[at] * deviation
        hit = at < world.changed
        values[0] -= world.loss * hit
        times = pace * np.exp(rng.normal(0, world.noise, (2, world.seeds))) * (world.slow if hit else 1)
        scores = {
            name: Score(
                mean=0, spread=None, seeds={str(seed): [value] for seed, value in enumerate(row.tolist())}
            )
            for name, row in zip(SCORES, np.minimum(values, 100), strict=True)
        }
        cells.append(
            BaselineCell(
                dataset="d",
                category=f"c{at % CATEGORIES}",
                method=f"m{at // CATEGORIES}",
                protocol="strict",
                fingerprint="f",
                weights={},
                data="",
                method_version=1,
                score_rule="",
                config={},
                environments=[],
                finished="",
                scores=scores,
                costs={"machine": Hardware(fit=(60 * times[0]).tolist(), predict=(5 * times[1]).tolist())},
            )
        )
    return cells


def main(nights: int) -> None:
    """Prints the table of docs/check.md."""

    def line(words: str, world: World, event: Callable[[Report], Any], share: int = 1) -> None:
        values = np.atleast_1d(rate(world, nights // share, event, seed=1))
        print(f"{words:64}", *(f"{100 * value:6.2f} %" for value in values), flush=True)  # noqa: T201

    print("false alarms: scores, times, either")  # noqa: T201
    line("seeds scatter by 0.3 to 0.5", World(), false_alarm)
    line("by 0.05 to 2", World(low=0.05, high=2), false_alarm)
    line("by 0.3 to 0.5, exponentially", World(skewed=True), false_alarm)
    line("three seeds", World(seeds=3), false_alarm)
    line("one seed", World(seeds=1), false_alarm)
    line("times by 3 %", World(noise=0.03), false_alarm)
    line("nights by 2 %", World(night=0.02), false_alarm)
    for spread in (0.2, 0.3, 0.4, 0.5):
        lost = World(low=spread, high=spread, loss=1, changed=5)
        line(
            f"1 point lost, seeds by {spread}: method over 5 categories", lost, lambda r: called(r, METHOD), 4
        )
        line(
            f"1 point lost, seeds by {spread}: one cell",
            replace(lost, changed=1),
            lambda r: called(r, FIRST),
            4,
        )
    half = World(low=0.5, high=0.5, loss=1, changed=1, shared=0.9)
    line("1 point lost, seeds by 0.5, 90 % shared: one cell", half, lambda r: called(r, FIRST), 4)
    more = World(low=0.5, high=0.5, loss=1, changed=1, seeds=15)
    line("1 point lost, seeds by 0.5, fifteen seeds: one cell", more, lambda r: called(r, FIRST), 4)
    for noise in (0.01, 0.02, 0.03):
        slow = World(noise=noise, slow=1.1, changed=1)
        line(f"10 % slower, times by {noise}: one cell", slow, lambda r: called(r, FIRST), 4)
        line(
            f"10 % slower, times by {noise}: all", replace(slow, changed=45), lambda r: called(r, MACHINE), 4
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
