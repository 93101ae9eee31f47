"""The judgement: a baseline's cells against those of new results, one answer each and one overall."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.check import significance as tests
from harness.check.baseline import COSTS, SCORES, Baseline, Cell, Hardware
from harness.check.gather import Gathered, incomparable
from harness.check.report import WORSE, Answer, Compared, Report, Verdict

# Percent points by which a mean must fall, beside being significant. A default, see `--min-effect`.
MIN_EFFECT = 0.5
# False-discovery rate over all tests of scores of a check.
FALSE_DISCOVERY = 0.005
# Percent points that a method without spread may lose: another machine's arithmetic.
TOLERANCE = 0.1
# Percent points that one seed alone may lose: four standard deviations where seeds scatter by 0.5.
SINGLE_SEED = 3.0
# Differences of all seeds below this are none.
_UNCHANGED = 0.05
# Times: level of the test, and the least slow-down; the margin where there are too few runs to test.
SPEED_LEVEL = 0.01
SLOWER = 1.05
SLOWER_FEW = 1.25
# Seconds below which no time is called worse: a call takes so long to be scheduled.
_BLINK = 0.05
# Memory: factor and MiB, both to be exceeded. The host's peak has imports and file caches in it.
MEMORY = {"memory_device": (1.10, 64.0), "memory_host": (1.30, 512.0)}


@dataclass(frozen=True)
class Rules:
    """What a user may set.

    Attributes:
        min_effect: percent points by which a mean must fall to count.
        require_speed: whether speed that was not compared makes a cell ``not comparable``.
    """

    min_effect: float = MIN_EFFECT
    require_speed: bool = False


@dataclass
class _Judged:
    """A cell on its way to its verdict."""

    cell: Cell
    now: Cell | None = None
    answer: Answer = "ok"
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: list[Compared] = field(default_factory=list)
    costs: list[Compared] = field(default_factory=list)
    differences: dict[str, tests.Array] = field(default_factory=dict)
    bases: dict[str, float] = field(default_factory=dict)


def judge(baseline: Baseline, found: Gathered, rules: Rules | None = None) -> Report:
    """Compares new results with a baseline."""
    rules = rules or Rules()
    judged = [_match(cell, baseline, found) for cell in baseline.cells]
    groups = _groups(judged)
    _judge_scores(judged, groups, rules)
    for one in judged:
        if one.now:
            _judge_costs(one, one.now, rules)
    verdicts = [*(g.verdict() for g in groups if g.scores), *(_verdict(one) for one in judged)]
    return _report(verdicts, baseline, found)


def match(cell: Cell, found: Gathered) -> Cell | None:
    """Returns the newest comparable cell of new results, else the newest of its slot, if there is any."""
    candidates = [c for c in found.cells if c.slot == cell.slot]
    return max(candidates, key=lambda c: (not incomparable(cell, c), c.finished), default=None)


def _match(cell: Cell, baseline: Baseline, found: Gathered) -> _Judged:
    now = match(cell, found)
    one = _Judged(cell)
    failed = found.failed.get(cell.slot, [])
    if now is None:
        one.answer = "nothing measured"
        one.reasons = failed[:1] or ["no run of this cell is in the results"]
        if len(failed) > 1:
            one.reasons.append(f"{len(failed) - 1} more failed")
        return one
    if why := incomparable(cell, now, (baseline.fingerprints, found.fingerprints)):
        one.answer, one.reasons = "not comparable", why
        return one
    one.now = now
    one.notes += failed[:1]
    for metric, score in cell.scores.items():
        seeds = now.scores[metric].seeds if metric in now.scores else {}
        name = SCORES.get(metric, metric)
        if missing := sorted(score.seeds.keys() - seeds.keys(), key=_as_number):
            one.answer = "not comparable"
            one.reasons.append(f"{name} was not measured for seed {', '.join(missing)}")
        common = sorted(score.seeds.keys() & seeds.keys())
        if common:
            old, new = (np.array([np.mean(side[seed]) for seed in common]) for side in (score.seeds, seeds))
            one.differences[metric], one.bases[metric] = new - old, float(old.mean())
    if not one.differences:
        one.answer = "nothing measured"
    return one


@dataclass
class _Group:
    """A method over the categories of a dataset: what no single cell shows, all together may."""

    name: str
    members: list[_Judged]
    scores: list[Compared] = field(default_factory=list)

    def verdict(self) -> Verdict:
        reasons = [_score_words(score) for score in self.scores if score.worse]
        answer: Answer = "score worse" if reasons else "ok"
        return Verdict(
            name=self.name, answer=answer, reasons=reasons, notes=[], scores=self.scores, costs=[], group=True
        )


def _groups(judged: Sequence[_Judged]) -> list[_Group]:
    members: dict[str, list[_Judged]] = defaultdict(list)
    for one in judged:
        if one.differences:
            members[one.cell.model_copy(update={"category": "*"}).name].append(one)
    return [_Group(name, ones) for name, ones in sorted(members.items()) if len(ones) > 1]


@dataclass(frozen=True)
class _Pending:
    """A comparison that waits for the correction over all tests."""

    scores: list[Compared]
    metric: str
    differences: tests.Array
    baseline: float
    count: int
    rule: str
    p: float


def _judge_scores(judged: Sequence[_Judged], groups: Sequence[_Group], rules: Rules) -> None:
    pending: list[_Pending] = []
    for metric in dict.fromkeys(name for one in judged for name in one.differences):
        testable: list[_Judged] = []
        for one in judged:
            if metric in one.differences:
                decided = _without_test(one, metric, rules)
                if decided is None:
                    testable.append(one)
                else:
                    one.scores.append(decided)
        for one, p in zip(testable, tests.loss_p([o.differences[metric] for o in testable]), strict=True):
            values = one.differences[metric]
            base = one.bases[metric]
            pending.append(_Pending(one.scores, metric, values, base, len(values), "paired t", float(p)))
        pending += [found for group in groups for found in _group_pending(group, metric)]
    passing = tests.discoveries(np.array([found.p for found in pending]), FALSE_DISCOVERY)
    for found, significant in zip(pending, passing, strict=True):
        change = float(found.differences.mean())
        worse = bool(significant) and change <= -rules.min_effect
        found.scores.append(
            _compared(found.metric, found.baseline, change, found.count, found.rule, worse, found.p)
        )


def _without_test(one: _Judged, metric: str, rules: Rules) -> Compared | None:
    """Decides what needs no test: nothing changed, a method without spread, a single seed."""
    score, change = one.cell.scores[metric], one.differences[metric]
    values = [value for seed in score.seeds.values() for value in seed]
    mean, base, count = float(change.mean()), one.bases[metric], len(change)
    if np.abs(change).max() < _UNCHANGED:
        return _compared(metric, base, mean, count, "unchanged", False)
    if len(score.seeds) > 1 and max(values) - min(values) < _UNCHANGED:
        rule = f"no spread: tolerance {TOLERANCE}"
        return _compared(metric, base, mean, count, rule, mean < -TOLERANCE)
    if count == 1:
        margin = max(SINGLE_SEED, rules.min_effect)
        return _compared(metric, base, mean, 1, f"one seed: margin {margin:g}", mean < -margin)
    return None


def _group_pending(group: _Group, metric: str) -> list[_Pending]:
    members = [one for one in group.members if metric in one.differences]
    values = [one.differences[metric] for one in members]
    if len(members) < 2 or all(np.abs(v).max() < _UNCHANGED for v in values):
        return []
    single = min(len(v) for v in values) < 2
    count = len(members) if single else sum(len(v) for v in values)
    base = float(np.mean([one.bases[metric] for one in members]))
    rule = "paired t over categories" if single else "paired t over seeds and categories"
    means = np.array([v.mean() for v in values])
    return [_Pending(group.scores, metric, means, base, count, rule, tests.group_loss_p(values))]


def _compared(
    metric: str, base: float, change: float, count: int, rule: str, worse: bool, p: float | None = None
) -> Compared:
    now = round(base + change, 4)
    return Compared(
        what=SCORES[metric],
        unit="%",
        baseline=round(base, 4),
        now=now,
        count=count,
        p=p,
        rule=rule,
        worse=worse,
    )


def _judge_costs(one: _Judged, now: Cell, rules: Rules) -> None:
    shared = sorted(one.cell.costs.keys() & now.costs.keys())
    for name in shared:
        for cost in COSTS:
            compared = _cost(name, cost, one.cell.costs[name], now.costs[name])
            one.costs += [compared] if compared else []
    measured = {compared.what for compared in one.costs}
    if not measured & {"fit", "predict"}:
        there, here = (" and ".join(sorted(cell.costs)) or "none" for cell in (one.cell, now))
        text = f"speed not compared: {here} now, {there} in the baseline"
        if not rules.require_speed:
            one.notes.append(text)
        else:
            one.reasons.append(text)
            one.answer = "not comparable" if one.answer == "ok" else one.answer


def _cost(name: str, cost: str, before: Hardware, now: Hardware) -> Compared | None:
    old, new = (np.array(getattr(side, cost)) for side in (before, now))
    if not len(old) or not len(new) or old.min() <= 0:
        return None
    base, value = float(np.median(old)), float(np.median(new))
    p: float | None = None
    if cost in MEMORY:
        factor, least = MEMORY[cost]
        rule = f"margin {100 * (factor - 1):.0f} % and {least:.0f} MiB"
        worse = value > factor * base and value - base > least
    elif tests.decidable(len(old), len(new), SPEED_LEVEL):
        rule = "Mann–Whitney, at least 5 %"
        worse = tests.slow_down(old, new) >= SLOWER and value - base >= _BLINK
        if worse:
            p = tests.slow_down_p(old, new)
            worse = p <= SPEED_LEVEL
    else:
        rule = f"few runs: margin {100 * (SLOWER_FEW - 1):.0f} %"
        worse = value > SLOWER_FEW * base and value - base >= _BLINK
    return Compared(
        what=cost.replace("_", " "),
        unit=COSTS[cost],
        baseline=base,
        now=value,
        count=len(new),
        hardware=name,
        p=p,
        rule=rule,
        worse=worse,
    )


def _verdict(one: _Judged) -> Verdict:
    """The worst that is certain comes first: what is missing does not hide a loss."""
    costs = [_cost_words(cost) for cost in one.costs if cost.worse]
    scores = [_score_words(score) for score in one.scores if score.worse]
    answer: Answer = "score worse" if scores else "speed or memory worse" if costs else one.answer
    order = {name: at for at, name in enumerate(SCORES.values())}
    return Verdict(
        name=one.cell.name,
        answer=answer,
        reasons=[*scores, *costs, *one.reasons],
        notes=one.notes,
        scores=sorted(one.scores, key=lambda score: order[score.what]),
        costs=one.costs,
    )


def _score_words(score: Compared) -> str:
    p = "" if score.p is None else f", p = {score.p:.1e}"
    return (
        f"{score.what} {score.baseline:.2f} → {score.now:.2f} ({score.now - score.baseline:+.2f} points; "
        f"{score.rule}{p})"
    )


def _cost_words(cost: Compared) -> str:
    ratio = 100 * (cost.now / cost.baseline - 1)
    return f"{cost.what} {cost.baseline:.4g} → {cost.now:.4g} {cost.unit} ({ratio:+.0f} %; {cost.rule})"


def _report(verdicts: list[Verdict], baseline: Baseline, found: Gathered) -> Report:
    cells = [verdict for verdict in verdicts if not verdict.group]
    answers = [verdict.answer for verdict in verdicts]
    compared = sum(verdict.answer in ("ok", *WORSE) for verdict in cells)
    worse = [answer for answer in WORSE if answer in answers]
    answer: Answer = "ok"
    if worse:
        answer = worse[0]
    elif all(verdict.answer == "nothing measured" for verdict in cells):
        answer = "nothing measured"
    elif compared < len(cells):
        answer = "not comparable"
    counts = ", ".join(
        f"{sum(v.answer == name for v in cells)} {name}" for name in dict.fromkeys(v.answer for v in cells)
    )
    summary = f"{answer}: {compared} of {len(cells)} cells of the baseline compared ({counts})"
    if together := sum(verdict.group and verdict.answer in WORSE for verdict in verdicts):
        summary += f"; {together} worse over their categories"
    known = {cell.slot for cell in baseline.cells}
    notes = [f"damaged record left out: {text}" for text in found.damaged]
    if new := len({cell.slot for cell in found.cells} - known):
        notes.append(f"{new} cells of the results are not in the baseline")
    return Report(
        answer=answer,
        exit_code=1 if worse else 0 if answer == "ok" else 2,
        summary=f"{summary}.",
        notes=notes,
        verdicts=verdicts,
        finished=max((cell.finished for cell in found.cells), default=""),
    )


def _as_number(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdigit() else 0, seed)
