"""Which of several records of one run counts is decided by their order of writing, not by the time of day."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.common.places import Places
from harness.execution.pipeline import Session, run_plan
from harness.execution.record import Result, make_record
from harness.planning.plan import Options, Plan, make_plan
from harness.results import sequence
from harness.results.merge import merge
from harness.results.prune import find_waste
from harness.results.sequence import highest, next_number, raise_to
from harness.results.store import Folder, newest, order_of, read_records, recent_records, write_record
from harness.spec.record import RunRecord
from harness.spec.suite import Suite
from reports.rankings.leaderboard import build
from tests.harness.checks.regression.results import record
from tests.harness.places import inside, make_place

DAYS = timedelta(days=2)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    place = make_place(tmp_path)
    with inside(place):
        yield place


def plan(place: Path) -> Plan:
    suite = Suite(title="", methods=["mine.py:Mine"], datasets=["own.toml"], categories=["a"], image_size=32)
    return make_plan(suite, Options(("cpu",), Places(place / "cache", place / "data", place / "results")))


def run(place: Path, score: float, clock: timedelta = timedelta()) -> str:
    """Does what is to do, every run having one score, and returns what is said."""

    def executor(tasks: Any, *_: Any) -> Iterator[RunRecord]:
        for task in tasks:
            finished = (datetime.now(UTC) + clock).isoformat(timespec="milliseconds")
            metrics = {"all": {"image_auroc": score}}
            yield make_record(task, Result(metrics=metrics)).model_copy(update={"finished": finished})

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        now = time.time_ns
        patch.setattr(time, "time_ns", lambda: now() + int(clock.total_seconds() * 1e9))
        run_plan(plan(place), Session(place / "results", ("cpu",), Console(file=said), run_all=executor))  # type: ignore[arg-type]
    return " ".join(said.getvalue().split())


def shown(place: Path) -> float | None:
    (found,) = newest(read_records(place / "results").records)
    (ranking,) = build(read_records(place / "results").records).rankings
    (cell,) = ranking.cells("a", "all", "image_auroc")
    assert cell.mean == pytest.approx(100 * (found.metrics["all"]["image_auroc"] or 0))
    return found.metrics["all"]["image_auroc"]


def test_a_clock_that_is_set_back_makes_no_newer_record_an_older_one(place: Path) -> None:
    run(place, 0.963)
    (first,) = (place / "results").glob("*/*/*/*.json")
    (place / "mine.py").write_text((place / "mine.py").read_text() + "# worse\n")
    run(place, 0.593, clock=-DAYS)
    old, new = sorted(
        read_records(place / "results").records, key=lambda r: r.metrics["all"]["image_auroc"] or 0
    )[::-1]
    assert new.finished < old.finished, "the clock was set back"
    assert shown(place) == 0.593
    assert [waste.path for waste in find_waste(place / "results", ["superseded"])] == [first]


def test_whoever_goes_back_to_an_earlier_file_sees_its_numbers_and_is_told(place: Path) -> None:
    earlier = (place / "mine.py").read_text()
    run(place, 0.963)
    (place / "mine.py").write_text(earlier + "# worse\n")
    run(place, 0.593)
    assert shown(place) == 0.593
    (place / "mine.py").write_text(earlier)
    said = run(place, 0.0)
    assert "counts again: the file is as it was then" in said
    assert shown(place) == 0.963
    assert "counts again" not in run(place, 0.0), "once"
    (place / "mine.py").write_text(earlier + "# worse\n")
    run(place, 0.0)
    assert shown(place) == 0.593


def test_a_methods_version_comes_first_and_a_private_ones_file_before_its_version() -> None:
    two = record(identity={"method_version": 2}).model_copy(update={"order": 5})
    one = record(identity={"method_version": 1}).model_copy(update={"order": 9})
    assert newest([two, one]) == newest([one, two]) == [two]
    first, then = (
        record(identity={"method_version": 2 - at, "source": str(at)}).model_copy(update={"order": 5 + at})
        for at in (0, 1)
    )
    assert newest([first, then]) == newest([then, first]) == [then]


def test_a_categorys_files_are_those_of_the_newest_record_of_all() -> None:
    """Also where the run that was done again was the first that there was."""
    records = [
        record(method="m", finished="2026-01-01T00:00:00"),
        record(method="n", finished="2026-01-02T00:00:00"),
        record(method="m", identity={"data": "d2"}, finished="2026-01-03T00:00:00"),
    ]
    (ranking,) = build(records).rankings
    assert ranking.methods == ("m",)
    assert {found.identity.data for found in ranking.records.values()} == {"d2"}


def test_records_from_before_count_as_of_their_time(tmp_path: Path) -> None:
    old = record(finished="2026-01-01T00:00:00.500+00:00")
    assert order_of(old) == 1767225600500
    assert order_of(record(finished="")) == 0
    assert next_number(tmp_path) > order_of(old)


def test_drivers_on_one_folder_give_no_number_twice(tmp_path: Path) -> None:
    given: list[int] = []
    drivers = [
        threading.Thread(target=lambda: given.extend(next_number(tmp_path) for _ in range(20)))
        for _ in range(4)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len(set(given)) == len(given) == 80
    assert [path.name for path in tmp_path.iterdir()] == [sequence.LAST], "no lock is left"


def test_merging_and_copying_by_hand_raise_the_number(tmp_path: Path) -> None:
    ahead = time.time_ns() // 1_000_000 + 10**9
    write_record(tmp_path / "one", record().model_copy(update={"order": ahead}))
    merge([tmp_path / "one"], tmp_path / "merged")
    assert next_number(tmp_path / "merged") == ahead + 1
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    folder = Folder(tmp_path / "copy")
    raise_to(tmp_path / "copy", highest(folder, recent_records(folder)))
    assert next_number(tmp_path / "copy") == ahead + 1


def test_a_damaged_number_is_no_end(tmp_path: Path) -> None:
    (tmp_path / sequence.LAST).write_text("nothing")
    assert next_number(tmp_path) >= time.time_ns() // 1_000_000 - 1000
