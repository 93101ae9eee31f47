"""Executors by entry point: what is installed is an option of `bench run`, with its own options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any

import click
import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.common.errors import UserError
from harness.execution.executors import choose
from harness.execution.executors.protocol import Executor, Option, ReadyExecutor

SEEN: list[dict[str, Any]] = []


@contextmanager
def _opened(device: str, given: Mapping[str, Any]) -> Iterator[ReadyExecutor]:
    SEEN.append({"device": device, **given})
    raise UserError("the queue is closed")
    yield


QUEUE = Executor("a queue", (Option("--queue-length", int, "How many wait."),), _opened)
NOTHING = "no executor"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("queue", f"{__name__}:QUEUE", choose.GROUP)
    known = choose.entry_points
    monkeypatch.setattr(choose, "entry_points", lambda group: [*known(group=group), point])
    monkeypatch.setattr(
        EntryPoint, "load", lambda self, own=EntryPoint.load: QUEUE if self is point else own(self)
    )
    choose.executors.cache_clear()
    yield
    choose.executors.cache_clear()


def test_an_executor_brings_its_own_options(installed: None) -> None:
    said = CliRunner().invoke(main, ["run", "--help"]).output
    assert "queue: a queue" in " ".join(said.split())
    assert "--queue-length" in said
    done = CliRunner().invoke(main, ["run", "--executor", "queue", "--queue-length", "3", "--device", "cpu"])
    assert (done.exit_code, done.output) == (2, "Error: the queue is closed\n")
    assert (SEEN[-1]["device"], SEEN[-1]["queue_length"]) == ("cpu", 3)


def test_another_executors_option_is_refused(installed: None) -> None:
    done = CliRunner().invoke(main, ["run", "--queue-length", "3"])
    assert done.exit_code == 2
    assert "--queue-length 3 is for --executor queue only" in done.output


def test_what_is_not_there_is_one_sentence() -> None:
    done = CliRunner().invoke(main, ["run", "--executor", "rai"])
    assert (done.exit_code, done.output) == (2, "Error: There is no executor 'rai'. Did you mean 'ray'?\n")
    with pytest.raises(UserError, match="no Executor: remove its package"):
        choose.checked(EntryPoint("odd", f"{__name__}:NOTHING", choose.GROUP), NOTHING)


def test_other_commands_load_no_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "executors", lambda: pytest.fail("loaded"))
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["plan", "--help"]).exit_code == 0
    assert isinstance(main.commands["run"], click.Command)
