"""Several runs on one device: shares of its memory, and who waits for whom."""

from __future__ import annotations

import math
import os
import threading

import pytest

from harness.common.errors import UserError
from harness.execution.executors.device_memory import Room
from harness.planning.forecast import Forecast
from harness.planning.packing import MOST, pack
from harness.planning.plan import Plan
from tests.harness.planning import simulate


class Runs:
    """Threads that take shares of one room, and leave when told to."""

    def __init__(self) -> None:
        self.room = Room()
        self.inside: list[str] = []
        self._leave: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def enter(self, name: str, share: float) -> None:
        leave = self._leave[name] = threading.Event()

        def stay() -> None:
            assert self.room.take(share)
            self.inside.append(name)
            leave.wait(10)
            self.inside.remove(name)
            self.room.leave(share)

        thread = threading.Thread(target=stay, daemon=True)
        self._threads.append(thread)
        thread.start()
        thread.join(0.05)

    def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()

    def settle(self, expected: set[str]) -> None:
        for _ in range(200):
            if set(self.inside) == expected:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"{self.inside}, not {expected}")


def test_runs_share_a_device_while_they_fit_and_none_overtakes_one_that_waits() -> None:
    runs = Runs()
    runs.enter("a", 0.4)
    runs.enter("b", 0.6)
    runs.settle({"a", "b"})
    runs.enter("large", 1.5)
    runs.enter("small", 0.1)
    runs.leave("a")
    runs.settle({"b"})
    runs.leave("b")
    runs.settle({"large"})
    runs.leave("large")
    runs.settle({"small"})
    runs.leave("small")
    runs.settle(set())


def test_a_run_that_is_alone_shares_with_none_not_even_with_those_that_need_nothing() -> None:
    runs = Runs()
    runs.enter("a", 0.0)
    runs.enter("alone", math.inf)
    runs.settle({"a"})
    runs.enter("b", 0.0)
    runs.leave("a")
    runs.settle({"alone"})
    runs.leave("alone")
    runs.settle({"b"})
    runs.leave("b")
    runs.settle(set())


def test_who_gives_up_takes_nothing() -> None:
    room = Room()
    assert room.take(0.7)
    assert not room.take(0.7, lambda: True)
    room.leave(0.7)
    assert room.take(1.0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return simulate.make(1)


def test_a_number_of_runs_is_taken_at_its_word(plan: Plan) -> None:
    packed, workers = pack(plan, Forecast(), ("cuda:0", "cuda:1"), 2)
    assert packed is plan
    assert workers == ("cuda:0", "cuda:0", "cuda:1", "cuda:1")


def test_auto_gives_runs_their_share_by_measured_memory(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    measured = simulate.record(plan.tasks[0], 100).model_copy(update={"peak_memory": {"device": 10**10}})
    packed, workers = pack(plan, Forecast([measured]), ("cuda:0",), "auto", lambda _: 80e9)
    assert workers == ("cuda:0",) * MOST
    assert packed.tasks[0].share == pytest.approx((1.25 * 10 + 0.75) / 80)
    others = {task.share for task in packed.tasks if task.spec.method != plan.tasks[0].spec.method}
    assert others == {math.inf}, "not measured: alone"
    assert pack(plan, Forecast(), ("cuda:0", "cuda:1") * 4, "auto", lambda _: 80e9)[1] == packed_by(2)


def packed_by(each: int) -> tuple[str, ...]:
    return tuple(device for device in ("cuda:0", "cuda:1") * 4 for _ in range(each))


def test_auto_needs_a_gpu(plan: Plan) -> None:
    with pytest.raises(UserError, match="give a number"):
        pack(plan, Forecast(), ("cpu",), "auto")
