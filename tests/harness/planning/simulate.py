"""Plans carried out on simulated GPUs: how near the order of execution comes to the least possible time.

`python -m tests.harness.planning.simulate` prints a table. The plans are those of the suite `paper` under two
protocols with as many seeds as wanted, by the datasets' cards; they are made and put in order by the code
that `bench run` uses. What a run truly takes is drawn: methods are faster or slower than is counted for them
by large factors, methods on categories and single runs by small ones, and one run of each kind has been
recorded before. Nothing is executed.
"""

from __future__ import annotations

import argparse
import heapq
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from harness.common.places import Places
from harness.data.card import load_card
from harness.data.category import Category
from harness.data.samples import CategoryData, Sample
from harness.planning.forecast import Forecast, Workload
from harness.planning.order import in_order, work_of
from harness.planning.plan import Chosen, Options, Plan, PlannedCategory, tasks_of
from harness.planning.suites import load_suite
from harness.planning.task import RunTask
from harness.planning.time_left import TimeLeft
from harness.profiling.memory import peak_resident
from harness.registry.configuration import configure_methods
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord, Timings

GPUS = (1, 4, 16, 64, 250, 1000)
SEEDS = (1, 10, 100, 1355)
MACHINE = "simulated GPU"
# Standard deviations of the logarithms of what is drawn.
METHODS, CATEGORIES, SINGLE = 1.0, 0.1, 0.05


def make(seeds: int) -> Plan:
    """Plans 738 runs for each seed: nine methods on 41 categories under two protocols."""
    suite = load_suite("paper").model_copy(update={"seeds": range(seeds), "protocols": ["strict", "paper"]})
    options = Options(devices=("cpu",), places=Places(Path("none"), results=Path("none")))
    methods = [Chosen(one, {}, {}, "") for one in configure_methods(suite)]
    groups = product(_categories(suite.datasets), suite.protocols, methods)
    return Plan(
        tuple(task for c, protocol, m in groups for task in tasks_of(suite, options, m, c, protocol, 0.0))
    )


def _categories(datasets: Sequence[str]) -> Iterator[PlannedCategory]:
    """Yields the categories of cards as if they were on disk."""
    for card in map(load_card, datasets):
        for counts in card.categories:
            parts = [
                (Sample(Path("none")),) * int(count or 0)
                for count in (counts.train, counts.validation, sum((counts.test or {}).values()))
            ]
            opened = Category(card, counts.name, CategoryData(*parts), Places(Path("none")))
            # There is no file to take it from.
            vars(opened)["fingerprint"] = ""
            yield PlannedCategory(card.name, opened, (), {})


@dataclass(frozen=True)
class Truth:
    """What runs really take.

    Attributes:
        paces: seconds over counted seconds, by what a run has to do.
        rng: gives each run its own luck.
    """

    paces: Mapping[Workload, float]
    rng: np.random.Generator

    def seconds(self, task: RunTask) -> float:
        """Seconds of one run."""
        work = work_of(task)
        return Forecast().expect(work).seconds * self.paces[work] * float(np.exp(self.rng.normal(0, SINGLE)))


def draw(plan: Plan, seed: int) -> Truth:
    """Draws how fast methods are."""
    rng = np.random.default_rng(seed)
    works = dict.fromkeys(map(work_of, plan.tasks))
    methods = {name: rng.normal(0, METHODS) for name in dict.fromkeys(work.kind.method for work in works)}
    paces = {work: float(np.exp(methods[work.kind.method] + rng.normal(0, CATEGORIES))) for work in works}
    return Truth(paces, rng)


def record(task: RunTask, seconds: float) -> RunRecord:
    """The record of a run that took so long."""
    train, test = task.images
    return RunRecord(
        key=task.key,
        spec=task.spec,
        identity=task.identity,
        fingerprint=fingerprint(task.spec, task.identity, 1),
        outcome="ok",
        counts={"train": train, "test": test},
        timings=Timings(load=0, fit=0.9 * seconds, predict=0.1 * seconds, evaluate=0, images_per_second=1),
        environment={"gpu": MACHINE},
    )


def one_of_each(plan: Plan, truth: Truth) -> list[RunRecord]:
    """A record of each kind of run, on some category."""
    tasks = list(plan.tasks)
    truth.rng.shuffle(tasks)  # type: ignore[arg-type]
    kinds = {work_of(task).kind: task for task in tasks[:20_000]}
    return [record(task, truth.seconds(task)) for task in kinds.values()]


def carry_out(seconds: Sequence[float], gpus: int) -> list[float]:
    """Returns when each run begins, each GPU taking the next run when it is free."""
    free = [0.0] * gpus
    begins = []
    for spent in seconds:
        begins.append(free[0])
        heapq.heapreplace(free, free[0] + spent)
    return begins


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """Returns when the last run ends."""
    return max(map(sum, zip(carry_out(seconds, gpus), seconds, strict=True)))


def time_left(plan: Plan, truth: Truth, forecast: Forecast, gpus: int, share: float) -> tuple[float, float]:
    """Returns the seconds that are left by prediction, and truly, when a share of the work has been done.

    Trainings of several epochs tell of them.
    """
    tasks = in_order(plan, forecast, gpus).todo
    seconds = [truth.seconds(task) for task in tasks]
    begins = carry_out(seconds, gpus)
    begin, long = np.array(begins), np.array(seconds)
    low, high = 0.0, float((begin + long).max())
    for _ in range(60):
        now = (low + high) / 2
        done = np.clip(now - begin, 0, long).sum()
        low, high = (now, high) if done < share * long.sum() else (low, now)
    follower = TimeLeft(forecast, {task.key: work_of(task) for task in tasks}, gpus)
    ends: list[tuple[float, RunTask, float]] = []
    for task, when, spent in zip(tasks, begins, seconds, strict=True):
        if when < now:
            follower.started(task.key, when)
            ends.append((when + spent, task, spent))
    for end, task, spent in sorted(ends, key=lambda one: one[0]):
        if end <= now:
            follower.finished(record(task, spent), end)
            continue
        count = 100 if {"epochs", "steps"} & dict(work_of(task).kind.settings).keys() else 1
        past = int((now - end + spent) / spent * count)
        for number in sorted({1, past} - {0}) if past else ():
            follower.epoch(task.key, number, count, end - spent + number * spent / count)
    left = follower.left(now)
    return (math.nan if left is None else left), float((begin + long).max()) - now


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        ratio: makespan over its lower bound.
        before: the same in the plan's own order.
        planning: seconds of one core for making the plan.
        ordering: seconds of one core for predicting every run and putting the plan in order.
        memory: bytes at the peak of both.
    """

    gpus: int
    runs: int
    ratio: float
    before: float
    planning: float
    ordering: float
    memory: float


def measure(seeds: int, gpus: int, luck: int) -> Row:
    """Makes a plan, puts it in order and carries it out."""
    begun = time.process_time()
    plan = make(seeds)
    planned = time.process_time()
    truth = draw(plan, luck)
    forecast = Forecast(one_of_each(plan, truth))
    drawn = time.process_time()
    in_turn = in_order(plan, forecast, gpus)
    ordered = time.process_time()
    # Before anything that only the simulation needs of each run.
    # Of these two alone: what the simulation needs of each run comes after.
    # Not getrusage: it counts what the parent held when it started this process.
    memory = peak_resident()
    seconds = {task.key: truth.seconds(task) for task in plan.tasks}
    bound = max(sum(seconds.values()) / gpus, *seconds.values())
    before, after = (
        makespan([seconds[task.key] for task in one.tasks], gpus) / bound for one in (plan, in_turn)
    )
    return Row(gpus, len(seconds), after, before, planned - begun, ordered - drawn, memory)


def rows(seeds: Iterable[int], gpus: Iterable[int], luck: int) -> Iterator[Row]:
    """Yields the lines of the table, each from a process of its own, whose peak is that of its plan alone."""
    context = multiprocessing.get_context("spawn")
    for each in product(seeds, gpus):
        with context.Pool(1) as pool:
            yield pool.apply(measure, (*each, luck))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="738 runs each")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--luck", type=int, default=0, help="what is drawn")
    given = parser.parse_args()
    write = sys.stdout.write
    write(
        "| runs | GPUs | makespan / lower bound | in the suite's order | planning, s | ordering, s | GB |\n"
    )
    write("|---|---|---|---|---|---|---|\n")
    for row in rows(given.seeds, given.gpus, given.luck):
        write(f"| {row.runs:,} | {row.gpus:,} | {row.ratio:.3f} | {row.before:.3f} ")
        write(f"| {row.planning:.1f} | {row.ordering:.1f} | {row.memory / 1e9:.2f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
