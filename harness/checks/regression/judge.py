"""The judgement: a baseline's cells against those of new results, one answer each and one overall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks.regression.baseline import SCORES, Baseline
from harness.checks.regression.changes import judge_changes
from harness.checks.regression.comparison import Case, CellGroup, open_case, over_categories
from harness.checks.regression.costs import judge_costs
from harness.checks.regression.gather import Gathered
from harness.checks.regression.scores import judge_scores
from harness.checks.regression.verdict import WORSE, Answer, Compared, Report, Verdict


@dataclass(frozen=True)
class Rules:
    """What a user may set.

    Attributes:
        min_effect: percent points by which a mean must fall, or rise, to count.
        min_slow_down: percent by which times must grow to count.
        require_speed: whether speed that was not compared makes a cell ``not comparable``.
        exact: whether scores under unchanged hardware and packages must be the same to the last digit.
    """

    min_effect: float = 0.5
    min_slow_down: float = 5.0
    require_speed: bool = False
    exact: bool = False


def judge(baseline: Baseline, found: Gathered, rules: Rules | None = None) -> Report:
    """Compares new results with a baseline."""
    rules = rules or Rules()
    cases = [open_case(cell, baseline, found) for cell in baseline.cells]
    methods = over_categories(cases)
    judge_scores(cases, methods, rules.min_effect)
    measured = [case for case in cases if case.now]
    notes = judge_changes(measured, (baseline.environments, found.environments), rules.exact)
    machines = judge_costs(measured, 1 + rules.min_slow_down / 100)
    for case in measured:
        _say_speed(case, rules)
    groups = [_group_verdict(group) for group in (*machines, *methods) if group.scores or group.costs]
    return _report([*groups, *map(_verdict, cases)], baseline, found, notes)


def _say_speed(case: Case, rules: Rules) -> None:
    """Says where speed was not compared."""
    missing = [name for name in ("fit", "predict") if name not in {cost.what for cost in case.costs}]
    if case.now is None or not missing:
        return
    if case.cell.costs.keys() & case.now.costs.keys():
        sides = ((case.now, "in the results"), (case.cell, "in the baseline"))
        gaps = [
            f"{name} {where}"
            for name in missing
            for cell, where in sides
            if not any(sum(getattr(costs, name)) for costs in cell.costs.values())
        ]
        text = f"speed not compared: nothing measured: {', '.join(gaps)}"
        if not gaps:
            return
    else:
        there, here = (" and ".join(sorted(cell.costs)) or "no time" for cell in (case.cell, case.now))
        text = f"speed not compared: {here} now, {there} in the baseline"
    if not rules.require_speed:
        case.notes.append(text)
        return
    case.reasons.append(text)
    if case.answer == "ok":
        case.answer = "not comparable"


def _verdict(case: Case) -> Verdict:
    """The worst that is certain comes first: what is missing does not hide a loss."""
    lost, longer, risen = _said(case.scores, case.costs)
    changed = [*risen, *case.changes]
    order = {name: at for at, name in enumerate(SCORES.values())}
    return Verdict(
        name=case.cell.name,
        answer=_worst(lost, longer) or ("score changed" if changed and case.answer == "ok" else case.answer),
        reasons=[*lost, *longer, *case.reasons, *changed],
        notes=case.notes,
        scores=sorted(case.scores, key=lambda score: order[score.what]),
        costs=case.costs,
    )


def _group_verdict(group: CellGroup) -> Verdict:
    lost, longer, risen = _said(group.scores, group.costs)
    return Verdict(
        name=group.name,
        answer=_worst(lost, longer) or ("score changed" if risen else "ok"),
        reasons=[*lost, *longer, *risen],
        notes=[],
        scores=group.scores,
        costs=group.costs,
        group=True,
    )


def _worst(lost: list[str], longer: list[str]) -> Answer | None:
    return "score worse" if lost else "speed or memory worse" if longer else None


def _said(scores: Sequence[Compared], costs: Sequence[Compared]) -> tuple[list[str], list[str], list[str]]:
    """Returns in words what is worse, scores and costs, and which scores rose."""
    lost: list[str] = []
    risen: list[str] = []
    for score in scores:
        if score.worse or score.better:
            p = "" if score.p is None else f", p = {score.p:.1e}"
            change = f"{score.now - score.baseline:+.2f} points"
            text = f"{score.what} {score.baseline:.2f} → {score.now:.2f} ({change}; {score.rule}{p})"
            (lost if score.worse else risen).append(text)
    longer = []
    for cost in costs:
        if cost.worse:
            ratio = f"{100 * (cost.now / cost.baseline - 1):+.0f} %"
            values = f"{cost.baseline:.4g} → {cost.now:.4g} {cost.unit}"
            longer.append(f"{cost.what} {values} ({ratio}; {cost.rule})")
    return lost, longer, risen


def _report(verdicts: list[Verdict], baseline: Baseline, found: Gathered, said: list[str]) -> Report:
    cells = [verdict for verdict in verdicts if not verdict.group]
    answers = [verdict.answer for verdict in verdicts]
    compared = sum(verdict.answer in ("ok", "score changed", *WORSE) for verdict in cells)
    worse = [answer for answer in WORSE if answer in answers]
    answer: Answer = "ok"
    if worse:
        answer = worse[0]
    elif all(verdict.answer == "nothing measured" for verdict in cells):
        answer = "nothing measured"
    elif compared < len(cells):
        answer = "not comparable"
    elif "score changed" in answers:
        answer = "score changed"
    counts = ", ".join(
        f"{sum(v.answer == name for v in cells)} {name}" for name in dict.fromkeys(v.answer for v in cells)
    )
    summary = f"{answer}: {compared} of {len(cells)} cells of the baseline compared ({counts})"
    if together := sum(verdict.group and verdict.answer in WORSE for verdict in verdicts):
        summary += f"; worse together, over several cells: {together}"
    if together := sum(verdict.group and verdict.answer == "score changed" for verdict in verdicts):
        summary += f"; changed together, over several cells: {together}"
    known = {cell.slot for cell in baseline.cells}
    notes = [*(f"damaged record left out: {text}" for text in found.damaged), *said]
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
