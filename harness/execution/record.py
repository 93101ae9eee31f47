"""What came of a task → its record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from harness.common.errors import UserError
from harness.metrics.evaluate import Metrics
from harness.metrics.exact import METRICS_VERSIONS
from harness.planning.task import RunTask
from harness.profiling.environment import environment
from harness.registry.methods import configure, load_method
from harness.spec.efficiency import Efficiency
from harness.spec.fingerprints import fingerprint
from harness.spec.operating_points import Operating
from harness.spec.record import EpochLog, Failure, Outcome, RunRecord, Timings


@dataclass(frozen=True)
class Result:
    """What came of a run; each field is one of :class:`harness.spec.RunRecord`.

    Attributes:
        environment: of the machine that trained, ``None`` for this one.
    """

    outcome: Outcome = "ok"
    failure: Failure | None = None
    metrics: Metrics = field(default_factory=dict)
    metrics_last: Metrics | None = None
    selected_epoch: int | None = None
    epochs: tuple[EpochLog, ...] = ()
    resumed: tuple[int, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    timings: Timings | None = None
    peak_memory: Mapping[str, int] = field(default_factory=dict)
    efficiency: Efficiency | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    operating: Operating | None = None
    made_from: str = ""
    environment: Mapping[str, Any] | None = None


def make_record(task: RunTask, result: Result) -> RunRecord:
    """Returns the record of a run that has ended just now."""
    citation, remarks = _said_by(task)
    measured = result.environment
    return RunRecord(
        key=task.key,
        spec=task.spec,
        identity=task.identity,
        fingerprint=fingerprint(task.spec, task.identity, METRICS_VERSIONS[task.spec.evaluate]),
        outcome=result.outcome,
        failure=result.failure,
        metrics=result.metrics,
        metrics_last=result.metrics_last,
        selected_epoch=result.selected_epoch,
        epochs=list(result.epochs),
        resumed=list(result.resumed),
        categories=list(task.categories),
        split_categories={k: list(v) for k, v in (task.split_categories or {}).items()},
        counts=dict(result.counts),
        timings=result.timings,
        peak_memory=dict(result.peak_memory),
        efficiency=result.efficiency,
        choices=dict(result.choices),
        operating=result.operating,
        environment=dict(environment(torch.device(task.device)) if measured is None else measured),
        citation=citation,
        remarks=remarks,
        suite=task.suite,
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        made_from=result.made_from,
    )


def failed(task: RunTask, outcome: Outcome, message: str, trace: str = "") -> RunRecord:
    """Returns the record of a run that has no numbers."""
    return make_record(task, Result(outcome=outcome, failure=Failure(message=message, traceback=trace)))


def _said_by(task: RunTask) -> tuple[str, list[str]]:
    """BibTeX entry and remarks of a task's method."""
    with suppress(UserError):  # a method that no longer loads: its record says so by its failure
        method = load_method(task.method)
        name = task.spec.method.partition("[")[0].replace(":", "_")
        config = configure(method, task.spec.method, task.identity.config)
        return method.citation.bibtex(name), list(method.remarks(config))
    return "", []
