"""The course over many checks: one JSON line for each, and where it changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from harness.checks.regression.significance import change_points
from harness.checks.regression.verdict import Answer, Report
from harness.common.errors import UserError
from harness.common.text import plain
from harness.common.values import Frozen

SCHEMA_VERSION = 1
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKS = 40


class Night(Frozen):
    """One check.

    Attributes:
        time: when it was made, UTC, ISO 8601.
        answer: overall.
        cells: ``{cell: {"image AUROC, %": 98.1, "fit, s, NVIDIA H100, AMD EPYC": 61.2}}``.
    """

    schema_version: int = SCHEMA_VERSION
    time: str
    answer: Answer
    cells: dict[str, dict[str, float]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """One value of one cell over time.

    Attributes:
        cell: the cell's name.
        what: e.g. ``image AUROC, %``.
        times: ISO 8601, oldest first.
        values: as many.
        changes: positions of the first values after each change point.
    """

    cell: str
    what: str
    times: tuple[str, ...]
    values: tuple[float, ...]
    changes: tuple[int, ...]

    def spark(self) -> str:
        """Returns the last 40 values as blocks of a height."""
        values = np.array(self.values[-_SPARKS:])
        span = float(np.ptp(values))
        steps = (values - values.min()) / span * (len(_BLOCKS) - 1) if span > 0 else values * 0
        return "".join(_BLOCKS[round(float(step))] for step in steps)

    def described(self) -> Iterator[str]:
        """Yields each change in words: the means on both sides, up to the next change."""
        edges = [0, *self.changes, len(self.values)]
        for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
            old, new = (float(np.mean(self.values[a:b])) for a, b in ((before, at), (at, after)))
            yield f"{self.times[at][:10]}: {old:.4g} → {new:.4g}"


def append(path: Path, report: Report, time: str) -> None:
    """Appends a check to a history, a new line even where the last one was left unfinished.

    Raises:
        UserError: the file cannot be written.
    """
    cells: dict[str, dict[str, float]] = {}
    for verdict in report.verdicts:
        values = {f"{score.what}, {score.unit}": score.now for score in verdict.scores}
        values |= {f"{cost.what}, {cost.unit}, {cost.hardware}": cost.now for cost in verdict.costs}
        cells[verdict.name] = values
    line = json.dumps(
        Night(time=time, answer=report.answer, cells=cells).model_dump(mode="json"), sort_keys=True
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode())
    except OSError as error:
        raise UserError(
            f"The history {plain(path)} cannot be written ({error.strerror or error})."
        ) from error


def read_history(path: Path) -> tuple[list[Night], list[str]]:
    """Returns the checks of a history, oldest first, and what was said of lines that are none.

    Raises:
        UserError: the file cannot be read, or holds no check at all.
    """
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"The history {plain(path)} cannot be read ({error.strerror or error}).") from error
    nights, damaged = [], []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            night = Night.model_validate_json(line)
        except ValidationError:
            damaged.append(f"line {number} is no check that this ulsad-bench can read")
            continue
        if night.schema_version > SCHEMA_VERSION:
            damaged.append(f"line {number} has schema version {night.schema_version}")
        else:
            nights.append(night)
    if not nights:
        raise UserError(f"{plain(path)} holds no check: `bench check --history {plain(path)}` appends them.")
    return sorted(nights, key=lambda night: night.time), damaged


def courses(nights: list[Night], cell: str = "") -> Iterator[Course]:
    """Yields the course of every value of every cell whose name contains ``cell``, in order of names."""
    keys = {(name, what) for night in nights for name, values in night.cells.items() for what in values}
    for name, what in sorted(keys):
        if cell.lower() in name.lower():
            there = [night for night in nights if what in night.cells.get(name, {})]
            values = [night.cells[name][what] for night in there]
            changes = tuple(change_points(np.array(values)))
            yield Course(name, what, tuple(night.time for night in there), tuple(values), changes)
