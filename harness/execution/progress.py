"""What a person sees while runs execute: a progress display on a terminal, a line per event elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from harness.spec.metrics import METRICS, in_terminal

if TYPE_CHECKING:
    from harness.method import Epoch
    from harness.planning.task import RunTask
    from harness.planning.time_left import TimeLeft
    from harness.spec.record import RunRecord

# The first bar is that of all runs.
_ALL = TaskID(0)
# Seconds between two predictions of the time that is left.
_PREDICT_EVERY = 5.0


class _TimeLeftColumn(ProgressColumn):
    """The time that is left: of all runs as predicted, of one by the epochs that it has had."""

    def __init__(self) -> None:
        super().__init__()
        self._one = TimeRemainingColumn()
        # When the end was last predicted, and the end, on the monotonic clock.
        self.when, self.end = -math.inf, math.inf

    def render(self, task: Task) -> Text:
        if task.id != _ALL:
            return self._one.render(task)
        if not math.isfinite(self.end):
            return Text("-:--:--", style="progress.remaining")
        seconds = max(0, round(self.end - time.monotonic()))
        return Text(str(timedelta(seconds=seconds)), style="progress.remaining")


class Display(AbstractContextManager["Display"]):
    """Shows the progress of ``total`` runs; to be used in a ``with`` statement.

    Args:
        console: where to write.
        total: how many runs there are to do.
        quiet: whether to say nothing but failures.
        time_left: predicts the time that is left.
        workers: how many runs are executed at a time.
    """

    def __init__(
        self, console: Console, total: int, quiet: bool, time_left: TimeLeft, workers: int = 1
    ) -> None:
        self._console, self._total, self._quiet = console, total, quiet
        self._count = self._started = 0
        self._workers = workers
        # By key of the runs that go on: their bars, and when a line was last written of them.
        self._bars: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._time_left, self._left = time_left, _TimeLeftColumn()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("time left"),
            self._left,
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._progress.add_task("all runs", total=total)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, task: RunTask) -> None:
        """A run begins."""
        now = self._last_line[task.key] = time.monotonic()
        self._time_left.started(task.key, now)
        self._predict(now)
        self._started += 1
        label = task.spec.label() + (f" · {task.device}" if self._workers > 1 else "")
        self._bars[task.key] = self._progress.add_task(escape(label), total=None)
        if not self._console.is_terminal:
            self._say(f"[{self._started}/{self._total}] {label}: started", markup=False)

    def epoch(self, task: RunTask, epoch: Epoch) -> None:
        """An epoch of a run that goes on has ended."""
        self._progress.update(self._bars[task.key], completed=epoch.number, total=epoch.of)
        now = time.monotonic()
        self._time_left.epoch(task.key, epoch.number, epoch.of, now)
        self._predict(now)
        # In a log file a line every half minute is enough to see that it lives.
        if not self._console.is_terminal and now - self._last_line[task.key] >= 30:
            self._last_line[task.key] = now
            losses = ", ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
            which = f"{task.spec.label()}: " if self._workers > 1 else ""
            self._say(f"    {which}epoch {epoch.number}/{epoch.of}: {losses}", markup=False)

    def finished(self, record: RunRecord, elsewhere: bool = False) -> None:
        """A run has ended, perhaps in another process; its record is on disk."""
        now = time.monotonic()
        self._time_left.finished(record, now)
        self._predict(now)
        self._count += 1
        self._progress.advance(_ALL)
        if (bar := self._bars.pop(record.key, None)) is not None:
            self._progress.remove_task(bar)
        head = f"[{self._count}/{self._total}] {record.spec.label()}"
        head += " (by another bench run)" if elsewhere else ""
        if record.outcome == "ok":
            spent = f"{record.timings.fit:.0f} s" if record.timings else "from kept parts"
            scores = record.metrics["all"]
            text = ", ".join(
                f"{METRICS[name].in_sentence} {percent(scores.get(name))}" for name in in_terminal("all")
            )
            self._say(f"{head}: {text} ({spent})", markup=False)
        else:
            message = record.failure.headline if record.failure else ""
            text = f"{head}: {record.outcome.replace('_', ' ')}: {message}"
            self._console.print(text, markup=False, soft_wrap=True)

    def _predict(self, now: float) -> None:
        # Of a large plan it takes some tenths of a second.
        if not self._progress.disable and now - self._left.when >= _PREDICT_EVERY:
            left = self._time_left.left(now)
            self._left.when, self._left.end = now, math.inf if left is None else now + left

    def _say(self, text: str, markup: bool) -> None:
        if not self._quiet:
            self._console.print(text, markup=markup, highlight=False, soft_wrap=True)


@contextmanager
def download_bar(console: Console, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows one download on a terminal; the function it gives is told bytes done and in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(escape(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def percent(value: float | None) -> str:
    """Returns a score in percent with one decimal, or ``undefined``."""
    return "undefined" if value is None else f"{100 * value:.1f}"
