"""Runs that were handed to Ray, and the records of those that it has lost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray import exceptions

from harness.execution.executors.local import SILENCE
from harness.execution.executors.protocol import tried_again
from harness.spec.record import Outcome, RunRecord

if TYPE_CHECKING:
    from harness.planning.task import RunTask

# What Ray raises where a run's worker, node or record is lost.
LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)


@dataclass
class Going:
    """A run that was handed to Ray.

    Attributes:
        ref: of what comes of it.
        attempt: how often it has been started, with this time.
        lost: how often its worker or node was lost.
        alone: whether it has its device to itself, having been out of memory beside others.
        told: whether the caller knows that it has begun.
        began: when the present attempt did; ``None`` while it waits.
        heard: when something was last heard of it.
        environment: the machine that it is on, for a record that it cannot make itself.
    """

    task: RunTask
    ref: Any
    attempt: int = 1
    lost: int = 0
    alone: bool = False
    told: bool = False
    began: float | None = None
    heard: float = 0.0
    host: str = ""
    environment: dict[str, Any] = field(default_factory=dict)


def overdue(one: Going, timeout: float | None) -> RunRecord | None:
    """Returns the record of a run that takes too long, or that is no longer heard of."""
    now = time.monotonic()
    if one.began is None:
        return None
    if timeout and now - one.began > timeout:
        return _failed(one, "timeout", f"took longer than {timeout:g} s")
    if now - one.heard > SILENCE:
        message = f"the worker process gave no sign of life for {SILENCE:g} s and was ended"
        return _failed(one, "failed", message)
    return None


def lost(one: Going, error: BaseException) -> RunRecord:
    """Returns the record of a run that is started again no more, lost to one of :data:`LOST` each time."""
    times = f"{one.lost} times, last on {one.host or 'a node that had not yet told its name'}"
    outcome: Outcome = "failed"
    if isinstance(error, exceptions.OutOfMemoryError):
        outcome, said = (
            "out_of_memory",
            f"the worker process was ended by Ray {times}: the node's memory ran out",
        )
    elif isinstance(error, exceptions.NodeDiedError):
        said = f"the node of the worker process was lost {times}"
    elif isinstance(error, exceptions.ObjectLostError):
        said = f"its record was lost from Ray's object store {times}"
    else:
        said = f"the worker process was ended from outside {times}; the system does that when memory runs out"
    return _failed(one, outcome, said)


def _failed(one: Going, outcome: Outcome, message: str) -> RunRecord:
    from harness.execution.record import failed

    # The driver need not have the device that the run was on.
    record = failed(replace(one.task, device="cpu"), outcome, message)
    record = record.model_copy(update={"environment": one.environment})
    return tried_again(record) if one.alone else record
