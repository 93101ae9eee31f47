"""What a person sees while runs execute: a progress display on a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from harness.execute import RunTask
    from harness.method import Epoch
    from harness.spec import RunRecord


class Display(AbstractContextManager["Display"]):
    """Shows the progress of ``total`` runs; to be used in a ``with`` statement.

    Args:
        console: where to write.
        total: how many runs there are to do.
        quiet: whether to say nothing but failures.
    """

    def __init__(self, console: Console, total: int, quiet: bool) -> None:
        self._console, self._total, self._quiet = console, total, quiet
        self._began = time.monotonic()
        self._count = 0
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._runs = self._progress.add_task("all runs", total=total)
        self._epochs = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, task: RunTask) -> None:
        """A run begins."""
        self._last_line = time.monotonic()
        label = escape(task.spec.label())
        self._progress.reset(self._epochs, description=label, total=None, visible=True)
        if not self._console.is_terminal:
            self._say(f"[{self._count + 1}/{self._total}] {task.spec.label()}: started", markup=False)

    def epoch(self, task: RunTask, epoch: Epoch) -> None:
        """An epoch of the current run has ended."""
        self._progress.update(self._epochs, completed=epoch.number, total=epoch.of)
        now = time.monotonic()
        # In a log file a line every half minute is enough to see that it lives.
        if not self._console.is_terminal and now - self._last_line >= 30:
            self._last_line = now
            losses = ", ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
            self._say(f"    epoch {epoch.number}/{epoch.of}: {losses}", markup=False)

    def finished(self, record: RunRecord) -> None:
        """A run has ended; its record is on disk."""
        self._count += 1
        self._progress.advance(self._runs)
        self._progress.update(self._epochs, visible=False)
        head = f"[{self._count}/{self._total}] {record.spec.label()}"
        if record.outcome == "ok" and record.timings:
            scores = record.metrics["all"]
            text = ", ".join(
                f"{name} {percent(scores.get(key))}"
                for name, key in (
                    ("image AUROC", "image_auroc"),
                    ("pixel AUROC", "pixel_auroc"),
                    ("AUPRO", "aupro"),
                )
            )
            self._say(f"{head}: {text} ({record.timings.fit:.0f} s)", markup=False)
        else:
            message = record.failure.message.splitlines()[0] if record.failure else ""
            text = f"{head}: {record.outcome.replace('_', ' ')}: {message}"
            self._console.print(text, markup=False, soft_wrap=True)

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
