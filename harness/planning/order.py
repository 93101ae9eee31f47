"""The order in which runs are executed: no device is left idle, and runs on the same images stay together.

Each device takes the next run when it is free. So no device idles before the last run has begun, and all
runs together take no longer than the total work divided by the devices, and the run that ends last.

Hence the rule. On several devices, runs that take longer than a twentieth of that quotient come first, the
longest first: what begins late is then short, and costs a twentieth at most. All other runs, and on one
device all runs, come in groups that share the decoded images (category, image size, resize and crop): these
are read from the disk once and then lie in memory, and whole categories are done one after the other. The
group with the longest run comes first, and in a group the longest run. Runs that differ by their seeds alone
are expected to take equally long, so they stay together, and with them the backbone that they share.

On several devices, kinds of runs that have never been measured send one run ahead of all, their shortest, so
that the time that is left can soon be told; on one device the first group has them.

A run's numbers do not depend on the order: each seeds every generator anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from harness.planning.forecast import Forecast, WorkKind, Workload, workload_of
from harness.spec.protocols import PROTOCOLS

if TYPE_CHECKING:
    from harness.planning.plan import Plan
    from harness.planning.task import RunTask

# Runs above this share of the least possible time on several devices come first.
LONG = 0.05

Run = TypeVar("Run")


def in_order(plan: Plan, forecast: Forecast, workers: int) -> Plan:
    """Returns the plan with its tasks in the order of execution: what is done, then what is to be done.

    Args:
        plan: what is to be done; of a plan that was begun, what is left.
        forecast: predicts the time of each run.
        workers: how many runs are executed at a time.
    """
    done = [task for task in plan.tasks if task.key in plan.done]
    points = [task for task in plan.todo if task.made_from is not None]
    trained = [task for task in plan.todo if task.made_from is None]
    first = _scouts(trained, forecast) if workers > 1 else {}
    rest = [task for task in trained if task.key not in first]
    rest = ordered(rest, lambda task: forecast.expect(work_of(task)).seconds, images_of, workers)
    return replace(plan, tasks=(*done, *first.values(), *rest, *points))


def _scouts(tasks: Iterable[RunTask], forecast: Forecast) -> dict[str, RunTask]:
    """The shortest run of each kind that has not been measured, by key, the longest first."""
    shortest: dict[WorkKind, tuple[float, RunTask]] = {}
    for task in tasks:
        work = work_of(task)
        expected = forecast.expect(work)
        if not expected.measured and expected.seconds < shortest.get(work.kind, (math.inf,))[0]:
            shortest[work.kind] = expected.seconds, task
    found = sorted(shortest.values(), key=lambda one: -one[0])
    return {task.key: task for _, task in found}


def ordered(
    runs: Sequence[Run],
    seconds_of: Callable[[Run], float],
    group_of: Callable[[Run], Hashable],
    workers: int,
) -> list[Run]:
    """Returns runs in the order of execution; runs of equal time and group stay as they are.

    Args:
        runs: what is to be done.
        seconds_of: the time that each is expected to take.
        group_of: what it shares with others of its group.
        workers: how many are executed at a time.
    """
    seconds = [seconds_of(run) for run in runs]
    limit = LONG * sum(seconds) / workers if workers > 1 else float("inf")
    long: list[int] = []
    groups: dict[Hashable, list[int]] = {}
    for place, spent in enumerate(seconds):
        (long if spent > limit else groups.setdefault(group_of(runs[place]), [])).append(place)

    def longest_first(places: list[int]) -> list[int]:
        return sorted(places, key=lambda place: -seconds[place])

    inside = sorted((longest_first(group) for group in groups.values()), key=lambda group: -seconds[group[0]])
    return [runs[place] for group in (longest_first(long), *inside) for place in group]


def work_of(task: RunTask) -> Workload:
    """Returns what a run has to do."""
    return workload_of(task.spec, task.identity.config, *task.images)


def images_of(task: RunTask) -> Hashable:
    """Returns what runs on the same decoded images have in common."""
    spec, protocol = task.spec, PROTOCOLS[task.spec.protocol]
    return task.card, spec.category, spec.image_size, protocol.resize, protocol.crop
