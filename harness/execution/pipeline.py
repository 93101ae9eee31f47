"""The line, top to bottom: plan → prepare → run → record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from harness.common.errors import UserError
from harness.execution.claims import Claims
from harness.execution.decode import decode
from harness.execution.executors.local import run_all
from harness.execution.executors.protocol import RunAll
from harness.execution.postprocessing import record_from_parts
from harness.execution.process_state import ProcessState
from harness.execution.progress import Display
from harness.execution.take_up import take_up
from harness.planning.forecast import Forecast
from harness.planning.order import work_of
from harness.planning.plan import Plan
from harness.planning.time_left import TimeLeft
from harness.results.artefacts import checkpoint_path
from harness.results.locks import sweep
from harness.results.sequence import next_number, raise_to
from harness.results.store import prepare_folder, write_record
from harness.spec.record import RunRecord


@dataclass(frozen=True)
class Session:
    """Where the runs of a plan are executed, and who is told of it.

    Attributes:
        results: the results folder.
        devices: where runs are executed, one at a time on each.
        console: where to write.
        quiet: whether to say nothing but failures.
        timeout: seconds after which a run is ended.
        run_all: what executes them.
        forecast: predicts the time that is left.
    """

    results: Path
    devices: Sequence[str]
    console: Console
    quiet: bool = False
    timeout: float | None = None
    run_all: RunAll = run_all
    forecast: Forecast = field(default_factory=Forecast)


def run_plan(plan: Plan, session: Session, command: str = "") -> list[RunRecord]:
    """Executes what a plan has to do, in its order, and returns the new records, each already on disk.

    Args:
        plan: what to do.
        session: where, and who is told.
        command: the command line, for the records.

    Raises:
        UserError: the results folder or the images are not fit for the runs; none has been started.
    """
    results, devices, console, quiet = session.results, session.devices, session.console, session.quiet
    prepare_folder(results)
    sweep(results)
    raise_to(results, plan.highest)
    taken = take_up(results, (task for task in plan.tasks if task.key in plan.done))
    if taken and not quiet:
        console.print(_taken_up(taken), markup=False)
    decode(plan, console, quiet)
    records: list[RunRecord] = []
    trained = [task for task in plan.todo if task.made_from is None]
    claims = Claims(trained, plan.planned_on)
    time_left = TimeLeft(session.forecast, {task.key: work_of(task) for task in trained}, len(devices))
    with (
        closing(claims),
        _watched(results) as check_folder,
        Display(console, len(plan.todo), quiet, time_left, len(devices)) as display,
        # Closed at once where a record cannot be written: its workers need not go on.
        closing(session.run_all(claims, devices, session.timeout, display.started, display.epoch)) as done,
    ):

        def take_over() -> None:
            for record in claims.found():
                records.append(record)
                display.finished(record, elsewhere=True)

        for record in done:
            take_over()
            if record is None:
                continue
            record = record.model_copy(update={"command": command, "order": next_number(results)})
            path = write_record(results, record)
            claims.release(record.key)
            # What had no memory or time enough may go on where it was, with more of it.
            if record.outcome in ("ok", "failed"):
                checkpoint_path(path).unlink(missing_ok=True)
            records.append(record)
            display.finished(record)
            check_folder()
        take_over()
        if made := [task for task in plan.todo if task.made_from is not None]:
            # A method's post-processing runs here; this process cannot be replaced.
            state = ProcessState()
            for task in made:
                record = record_from_parts(task)
                state.restore()
                record = record.model_copy(update={"command": command, "order": next_number(results)})
                write_record(results, record)
                records.append(record)
                display.finished(record)
    return records


def _taken_up(records: Sequence[RunRecord]) -> str:
    methods = ", ".join(dict.fromkeys(record.spec.method for record in records))
    count = (
        f"{len(records)} records of {methods} count"
        if len(records) > 1
        else f"The record of {methods} counts"
    )
    return f"{count} again: the file is as it was then; what was recorded since is of another content of it."


@contextmanager
def _watched(results: Path) -> Iterator[Callable[[], None]]:
    """Gives a function that raises a UserError where the results folder is no longer the one it was."""
    # While it is open its inode is given to no other folder.
    opened = os.open(results, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None

    def check() -> None:
        there = results.stat() if results.is_dir() else None
        if opened is not None and (there is None or not os.path.samestat(there, os.fstat(opened))):
            raise UserError(
                f"The results folder {results} was removed or replaced while runs went on: put it back, "
                "or run again to do what it held anew; the run that has just ended is recorded there."
            )

    try:
        yield check
    finally:
        if opened is not None:
            os.close(opened)
