"""What the harness itself costs: planning, the scan before resuming, and runs against bare scripts."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.common.files import cache_dir
from harness.common.places import Places
from harness.data.card import load_card
from harness.data.category import open_category
from harness.execution.devices import seed_everything
from harness.execution.run import execute
from harness.method import Images, TrainingData
from harness.planning.plan import Options, Plan, make_plan
from harness.planning.task import RunTask
from harness.registry.methods import configure, load_method
from harness.registry.setup import Surroundings, make_setup
from harness.results.store import record_path
from harness.spec.suite import Suite
from tests.bench.pairs import Pair

LITE = "tf_efficientnet_lite0"
METHODS = ["ulsad", "ulsad[lambda_l=0.1]", "ulsad[alpha=0.8]", "dfr", "dfr[lr=0.1]"]


def plan(results: Path, seeds: int, **fields: Any) -> Plan:
    """Plans 10 runs for each seed, or what the suite's ``fields`` say."""
    suite = Suite(
        title="bench",
        methods=fields.pop("methods", METHODS),
        datasets=["demo"],
        seeds=list(range(seeds)),
        backbone=LITE,
        image_size=128,
        **fields,
    )
    return make_plan(suite, Options(devices=("cpu",), places=Places(cache_dir(), results=results)))


def write_records(tasks: tuple[RunTask, ...], results: Path) -> None:
    """Writes a record for each task, copies of one real record under other names."""
    record = execute(replace(tasks[0], places=replace(tasks[0].places, results=results)), lambda _: None)
    fields = record.model_dump(mode="json")
    for task in tasks:
        path = record_path(results, task.spec, task.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {"key": task.key, "spec": task.spec.model_dump(mode="json")}
        path.write_text(json.dumps(fields | own))


def pairs(rounds: int = 3, seeds: int = 10_000) -> Iterator[Pair]:
    """Yields costs beside their limits: seconds of one core for planning, ratios for overhead."""
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results"
        tasks = plan(results, 1).tasks
        count = len(tasks) * seeds
        yield _limit(f"planning {count:,} runs", lambda: plan(results, seeds), 2.0, rounds)
        write_records(plan(results, seeds).tasks, results)
        # Files younger than two seconds are not remembered.
        time.sleep(2.1)
        yield _limit(f"planning {count:,} runs that have records", lambda: plan(results, seeds), 5.0, rounds)
    yield from _overhead(rounds)


def _limit(name: str, work: Callable[[], object], seconds: float, rounds: int) -> Pair:
    """A cost in seconds of the processor, beside what it may be: other work on the machine does not count."""

    def spent() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return Pair(name, spent, lambda: seconds, f"its limit of {seconds:g} s", 1, rounds, "s of a core")


def _overhead(rounds: int) -> Iterator[Pair]:
    """Yields what :func:`harness.execution.run.execute` takes against a bare script of the same training.

    A run of about a minute by the ratio, one of less than a second by the seconds on top of it.
    """
    with tempfile.TemporaryDirectory() as name:

        def task(method: str, fields: dict[str, int]) -> RunTask:
            own = {method: fields} if fields else {}
            (found,) = plan(Path(name), 1, methods=[method], categories=["texture"], set=own).tasks
            return found

        ulsad, padim = task("ulsad", {"epochs": 60}), task("padim", {})
        note = "{} on demo/texture, 128 px, images decoded before"
        yield Pair(
            "ULSAD by the harness",
            lambda: execute(ulsad, lambda _: None),
            lambda: _bare(ulsad),
            "a bare script",
            1 / 1.03,
            rounds,
            note=note.format("60 epochs"),
        )

        def above() -> float:
            begun = time.perf_counter()
            execute(padim, lambda _: None)
            between = time.perf_counter()
            _bare(padim)
            return between - begun - (time.perf_counter() - between)

        yield Pair(
            "PaDiM by the harness, on top of a bare script",
            above,
            lambda: 2.0,
            "a limit of 2 s",
            1,
            rounds,
            "s more",
            note.format("PaDiM"),
        )


def _bare(task: RunTask) -> None:
    """What a script of one's own would do: the same images, training, prediction, and nothing else."""
    spec, card = task.spec, load_card(task.card)
    # The demo has validation images of its own.
    decoded = open_category(card, spec.category, task.places).decoded(spec.fit)
    train, validation, test = map(Images, decoded)
    seed_everything(spec.seed)
    with tempfile.TemporaryDirectory() as scratch:
        around = Surroundings(torch.device("cpu"), spec.image_size, spec.seed, Path(scratch))
        given = make_setup(task.weights, {}, around)
        kind = load_method(task.method)
        method = kind(configure(kind, spec.method, task.identity.config), given)
        method.fit(TrainingData(train, validation, spec.seed), lambda _: None)
        with torch.no_grad():
            for batch in test.batches(32):
                method.predict(batch)
