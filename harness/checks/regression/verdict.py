"""What a check found: frozen values, which ``--json`` writes as they are."""

from __future__ import annotations

from typing import Literal

from harness.common.values import Frozen

SCHEMA_VERSION = 1
Answer = Literal[
    "ok", "score worse", "speed or memory worse", "nothing measured", "not comparable", "score changed"
]
WORSE: tuple[Answer, ...] = ("score worse", "speed or memory worse")


class Compared(Frozen):
    """One score or cost beside its baseline.

    Attributes:
        what: e.g. ``image AUROC`` or ``fit``.
        unit: ``%``, ``s`` or ``MiB``.
        baseline: mean score over the seeds of both, or median cost.
        now: the same of the new results.
        count: seeds (categories, for a group of one seed) or new runs.
        hardware: for costs, the machine.
        p: of the test, ``None`` where none was needed or possible.
        rule: what decided, in a few words.
        worse: the decision.
        better: whether a score rose by what would have been a loss in the other direction.
    """

    what: str
    unit: str
    baseline: float
    now: float
    count: int
    hardware: str = ""
    p: float | None = None
    rule: str
    worse: bool
    better: bool = False


class Verdict(Frozen):
    """The answer for one cell, or for a method over all its categories.

    Attributes:
        name: of the cell; a group has ``*`` for the category.
        answer: one of the six.
        reasons: why it is not ``ok``.
        notes: what else must be known, e.g. that speed was not compared.
        scores: in percent.
        costs: times and memory.
        group: whether it is about several categories.
    """

    name: str
    answer: Answer
    reasons: list[str]
    notes: list[str]
    scores: list[Compared]
    costs: list[Compared]
    group: bool = False


class Report(Frozen):
    """The answer of a check.

    Attributes:
        answer: overall; ``ok`` only if every cell is.
        exit_code: 0, 1 or 2.
        summary: one sentence.
        notes: about the results as a whole.
        verdicts: groups, then cells, in the order of their names.
        finished: when the last new run ended, ISO 8601, empty if there is none.
    """

    schema_version: int = SCHEMA_VERSION
    answer: Answer
    exit_code: int
    summary: str
    notes: list[str]
    verdicts: list[Verdict]
    finished: str = ""
