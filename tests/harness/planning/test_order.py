"""What runs cost, the order they are executed in, the time that is left, on plans whose truth is known."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.common.places import Places
from harness.execution.progress import Display
from harness.execution.run import execute
from harness.method import Epoch
from harness.planning.forecast import Forecast, Workload, workload_of
from harness.planning.order import images_of, in_order, ordered, work_of
from harness.planning.plan import Options, Plan, make_plan
from harness.planning.task import RunTask
from harness.planning.time_left import TimeLeft
from harness.results.store import Folder, recent_records, write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord, Timings
from harness.spec.run import Identity, RunSpec
from harness.spec.suite import Suite
from tests.harness.places import OWN, hexadecimal, inside, make_place
from tests.harness.planning import simulate

Fields = dict[str, Any]


def earlier(train: int = 100, test: int = 50, fit: float = 90, rest: float = 10, **fields: Any) -> RunRecord:
    """A record of a method of 20 epochs, on a GPU."""
    config: Fields = {"epochs": 20, "backbone": "b"} | fields.pop("config", {})
    identity = Identity(method_version=1, config=config, weights={}, data="d", score_rule="max")
    spec = {"dataset": "d", "category": "c", "method": "m", "seed": 0} | fields.pop("spec", {})
    spec = RunSpec.model_validate(spec)
    return RunRecord(
        key=hexadecimal(repr((spec, config, fields))),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        counts={"train": train, "test": test} if train else {},
        timings=Timings(load=0, fit=fit, predict=rest, evaluate=0, images_per_second=1),
        **{"environment": {"gpu": "own"}, "finished": "2026-01-01", **fields},
    )


def work(train: int = 100, test: int = 50, **config: Any) -> Workload:
    spec = RunSpec(dataset="other", category="other", method="m[lr=1]", seed=7)
    return workload_of(spec, {"epochs": 20, "backbone": "b", "lr": 1} | config, train, test)


# Prediction


def test_a_run_costs_what_such_runs_cost_by_its_numbers_of_images() -> None:
    forecast = Forecast([earlier(peak_memory={"host": 9, "device": 1000})])
    assert forecast.expect(work()) == pytest.approx((100, 1000, True))
    assert forecast.expect(work(train=200)) == pytest.approx((190, 2000, True))
    assert forecast.expect(work(train=50, test=500)) == pytest.approx((145, 1000, True))
    assert Forecast([earlier(train=0)]).expect(work()).seconds == pytest.approx(100), "images not recorded"


def test_steps_take_as_long_whatever_the_number_of_images() -> None:
    steps = {"epochs": None, "steps": 5000, "batch_size": 4}
    forecast = Forecast([earlier(config=steps)])
    assert forecast.expect(work(train=200, **steps)).seconds == pytest.approx(100, rel=0.01)
    # A training ends with the first of both.
    both = {"epochs": 20, "steps": 10**6}
    assert Forecast([earlier(config=both)]).expect(work(train=200, **both)).seconds == pytest.approx(190)


@pytest.mark.parametrize(
    "other",
    [
        *({"config": {name: value}} for name, value in (("backbone", "c"), ("epochs", 40))),
        *({"spec": {name: value}} for name, value in (("image_size", 512), ("method", "n"))),
        *({"spec": {name: value}} for name, value in (("protocol", "paper"), ("evaluate", "native"))),
    ],
)
def test_what_is_measured_is_told_from_what_is_derived(other: Fields) -> None:
    expected = Forecast([earlier(**other)]).expect(work())
    assert not expected.measured
    assert expected.memory is None
    assert expected.seconds > 0
    assert Forecast([earlier(**other), earlier()]).expect(work()) == pytest.approx((100, None, True))


def test_longer_trainings_and_slower_methods_are_expected_to_take_longer() -> None:
    nothing = Forecast()
    assert nothing.expect(work(epochs=40)).seconds > 1.5 * nothing.expect(work()).seconds
    slow = Forecast([earlier(fit=9000)])
    assert slow.expect(work(epochs=40)).seconds == pytest.approx(18000, rel=0.05)


def test_the_newest_records_of_this_machine_about_as_large_count() -> None:
    def at(day: int, seconds: float, **fields: Any) -> RunRecord:
        return earlier(fit=seconds - 10, finished=f"2026-01-{day:02}", **fields)

    old, new = [at(day, 500) for day in range(1, 9)], [at(day, 100) for day in range(11, 16)]
    assert Forecast([*new, *old]).expect(work()).seconds == pytest.approx(100)
    elsewhere = [at(day, 900, environment={"gpu": "another"}) for day in range(20, 25)]
    assert Forecast([*new, *elsewhere]).expect(work()).seconds == pytest.approx(900)
    here = Forecast([*new, *elsewhere, at(28, 50, spec={"method": "n"})])
    assert here.expect(work()).seconds == pytest.approx(100), "the newest is of this machine"
    # PatchCore's time, for one, grows faster than the number of its images.
    large = [at(day, 10_000, train=800) for day in range(20, 25)]
    assert Forecast([*new, *large]).expect(work(train=120)).seconds == pytest.approx(118)


def test_a_forecast_learns() -> None:
    forecast = Forecast([earlier(fit=990)])
    assert forecast.expect(work()).seconds == pytest.approx(1000)
    for _ in range(5):
        forecast.learn(earlier())
    assert forecast.expect(work()).seconds == pytest.approx(100)
    forecast.learn(earlier().model_copy(update={"timings": None, "outcome": "failed"}))
    assert forecast.expect(work()).seconds == pytest.approx(100)


def test_of_many_records_the_last_ones_of_each_method_are_read(tmp_path: Path) -> None:
    assert recent_records(Folder(tmp_path / "none")) == []
    for i in range(6):
        write_record(tmp_path, earlier(spec={"seed": i}))
    write_record(tmp_path, earlier(spec={"method": "n"}))
    (tmp_path / "d" / "c" / "m" / "broken.json").write_text("{")
    found = recent_records(Folder(tmp_path), each=3)
    assert sorted((r.spec.method, r.spec.seed) for r in found) == [("m", 4), ("m", 5), ("n", 0)]


# Order


RUNS = [(group, seconds) for seconds in (1.0, 5.0, 3.0) for group in "abc"] + [("b", 60.0)]


def test_on_one_device_groups_stay_together_and_the_longest_comes_first() -> None:
    found = ordered(RUNS, lambda run: run[1], lambda run: run[0], 1)
    assert "".join(group for group, _ in found) == "bbbbaaaccc"
    assert [seconds for _, seconds in found] == [60, 5, 3, 1, 5, 3, 1, 5, 3, 1]


def test_on_several_devices_what_is_long_comes_first_and_the_rest_in_groups() -> None:
    runs = [("z", 60.0), *(("a", 1.0), ("b", 2.0)) * 50, ("y", 80.0)]
    found = ordered(runs, lambda run: run[1], lambda run: run[0], 2)
    assert found == [("y", 80.0), ("z", 60.0), *[("b", 2.0)] * 50, *[("a", 1.0)] * 50]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return simulate.make(1)


def test_a_plan_that_was_begun_orders_what_is_left(plan: Plan) -> None:
    truth = simulate.draw(plan, 0)
    forecast = Forecast(simulate.one_of_each(plan, truth))
    whole = in_order(plan, forecast, 1)
    assert {task.key for task in whole.tasks} == {task.key for task in plan.tasks}
    images = [images_of(task) for task in whole.tasks]
    assert sum(a != b for a, b in pairwise(images)) == len(set(images)) - 1

    done = frozenset(task.key for task in whole.tasks[::3])
    left = in_order(replace(plan, done=done), forecast, 16)
    assert {task.key for task in left.tasks[: len(done)]} == done
    seconds = [forecast.expect(work_of(task)).seconds for task in left.todo]
    assert seconds[0] == max(seconds)
    limit = 0.05 * sum(seconds) / 16
    long = [s for s in seconds if s > limit]
    assert len(long) > 16
    assert seconds[: len(long)] == sorted(long, reverse=True)


def test_points_of_a_grid_come_last(plan: Plan) -> None:
    point = replace(plan.tasks[0], key="point", made_from=plan.tasks[0])
    found = in_order(Plan((point, *plan.tasks[:20])), Forecast(), 4)
    assert [task.key for task in found.tasks].index("point") == 20


def test_kinds_that_were_never_measured_send_one_run_ahead(plan: Plan) -> None:
    kinds = {work_of(task).kind for task in plan.tasks}
    first = in_order(plan, Forecast(), 8).tasks[: len(kinds)]
    assert {work_of(task).kind for task in first} == kinds
    assert len(kinds) == 18


@pytest.mark.parametrize("gpus", [1, 2, 8, 32, 64, 100, 250, 1000])
@pytest.mark.parametrize("luck", [0, 1, 2])
def test_the_last_run_ends_within_a_tenth_of_the_least_time(plan: Plan, gpus: int, luck: int) -> None:
    truth = simulate.draw(plan, luck)
    forecast = Forecast(simulate.one_of_each(plan, truth))
    seconds = [truth.seconds(task) for task in in_order(plan, forecast, gpus).todo]
    assert simulate.makespan(seconds, gpus) <= 1.1 * max(sum(seconds) / gpus, max(seconds))


@pytest.mark.slow
def test_a_fifth_of_a_million_runs_leaves_no_gpu_idle_and_fits_memory() -> None:
    # The whole million, with its seconds: `nox -s simulate`.
    (row,) = simulate.rows([271], [1000], luck=0)
    assert row.runs > 199_000
    assert row.ratio < 1.1
    assert row.memory < 1.3e9


# Time left


@pytest.mark.parametrize("gpus", [1, 4, 16, 64])
@pytest.mark.parametrize("known", [True, False])
def test_after_a_tenth_of_the_work_the_time_left_is_known(plan: Plan, gpus: int, known: bool) -> None:
    for luck in range(3):
        truth = simulate.draw(plan, luck)
        records = simulate.one_of_each(plan, truth) if known else []
        said, true = simulate.time_left(plan, truth, Forecast(records), gpus, 0.1)
        assert said == pytest.approx(true, rel=0.25)


def test_time_left_goes_with_epochs_and_records() -> None:
    follower = TimeLeft(Forecast(), {"a": work(), "b": work()}, 1)
    assert follower.left(0) is None, "nothing is measured"
    follower.started("a", 0)
    follower.epoch("a", 1, 20, 50)
    assert follower.left(50) is None, "of one epoch there is no pace: the first may hold more than the others"
    follower.epoch("a", 2, 20, 54)
    alone = TimeLeft(Forecast(), {"a": work()}, 1)
    alone.started("a", 0)
    alone.epoch("a", 1, 20, 50)
    alone.epoch("a", 2, 20, 54)
    assert alone.left(60) == pytest.approx(54 + 18 * 4 - 60)
    record = earlier().model_copy(update={"key": "a"})
    follower.finished(record, 125)
    assert follower.left(125) == pytest.approx(125), "a quarter more than the record counts"
    follower.finished(record.model_copy(update={"key": "b"}), 130)
    assert follower.left(130) == 0, "done elsewhere"


def test_a_second_try_has_a_pace_of_its_own() -> None:
    follower = TimeLeft(Forecast(), {"a": work()}, 1)
    follower.started("a", 0)
    for number, when in ((1, 10), (2, 20), (3, 30), (1, 140), (2, 142)):
        follower.epoch("a", number, 20, when)
    assert follower.left(142) == pytest.approx(18 * 2)


def test_the_progress_bar_shows_the_time_left(plan: Plan) -> None:
    task = plan.tasks[0]
    forecast = Forecast([simulate.record(task, 7200.0)])
    follower = TimeLeft(forecast, {task.key: work_of(task)}, 1)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    with Display(console, 1, False, follower) as display:
        display.started(task)
        display.epoch(task, Epoch(1, 2))
    assert any(left in screen.getvalue() for left in ("2:00:00", "1:59:59"))


# Records


def test_records_do_not_depend_on_the_order(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    with inside(place):
        suite = Suite(title="own", methods=["mine.py:Mine"], datasets=["own.toml"], seeds=[0], image_size=32)
        options = Options(("cpu",), Places(place / "cache", place / "data", place / "results"), measure=0)
        tasks = make_plan(suite, options).tasks
        there, back = outcomes(tasks), outcomes(tasks[::-1])
    assert len(there) == 2
    assert there == back


def outcomes(tasks: tuple[RunTask, ...]) -> dict[str, Fields]:
    """Records by key, made in this process one after the other, without what differs from run to run."""
    made = (execute(task, lambda _: None) for task in tasks)
    return {record.key: record.model_dump(mode="json", exclude=set(OWN)) for record in made}
