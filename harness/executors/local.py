"""Runs in a worker process on this machine, one after the other.

A worker that crashes, hangs or is killed ends its own run only. Workers are reused while all goes well, and
replaced after any failure, so that no run inherits another's broken state (a poisoned CUDA context, leaked
memory).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, TimeoutError
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pebble import ProcessExpired, ProcessPool

from harness.method import Epoch
from harness.spec import RunRecord

if TYPE_CHECKING:
    from harness.execute import RunTask

Progress = Callable[["RunTask", Epoch], None]


# Where a worker tells its driver of epochs: a queue is handed over only at a worker's start.
_events: ContextVar[Any] = ContextVar("events")


def run_all(
    tasks: Iterable[RunTask], timeout: float | None, on_start: Callable[[RunTask], None], on_epoch: Progress
) -> Iterator[RunRecord]:
    """Executes tasks in order, each in a worker process, and yields a record for each.

    Args:
        tasks: the runs.
        timeout: seconds after which a run is ended and recorded as ``timeout``; ``None`` for no limit.
        on_start: told of every run that begins.
        on_epoch: told of every epoch that ends.
    """
    worker: _Worker | None = None
    try:
        for task in tasks:
            worker = worker or _Worker()
            on_start(task)
            record = worker.run(task, timeout, on_epoch)
            if record.outcome != "ok":
                worker.end()
                worker = None
            yield record
    finally:
        if worker:
            worker.end()


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()
        self._pool = ProcessPool(
            max_workers=1, initializer=_begin, initargs=(os.getpid(), self._events), context=context
        )

    def run(self, task: RunTask, timeout: float | None, on_epoch: Progress) -> RunRecord:
        from harness.execute import failed

        future = self._pool.schedule(_work, args=(task,), timeout=timeout)
        while not future.done():
            self._tell(task, on_epoch, wait=0.2)
        self._tell(task, on_epoch, wait=0.0)
        try:
            record: RunRecord = RunRecord.model_validate_json(future.result())
        except TimeoutError:
            return failed(task, "timeout", f"took longer than {timeout:g} s")
        except ProcessExpired as error:
            return failed(task, "failed", _death(error.exitcode))
        except CancelledError:
            return failed(task, "failed", "the run was cancelled")
        return record

    def _tell(self, task: RunTask, on_epoch: Progress, wait: float) -> None:
        while True:
            try:
                number, of, losses = self._events.get(timeout=wait) if wait else self._events.get_nowait()
            except queue.Empty:
                return
            on_epoch(task, Epoch(number, of, losses))

    def end(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        # A worker stopped while it is still being born may never report; it ends itself with its driver.
        with suppress(TimeoutError):
            self._pool.join(timeout=10)
        self._events.close()


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        reason = "; the system does that when memory runs out" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{reason}"
    return f"the worker process ended by itself with exit code {exitcode}"


def _begin(driver: int, events: Any) -> None:
    _events.set(events)
    # Ctrl-C reaches the whole process group; the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    logging.getLogger("timm").setLevel(logging.ERROR)
    # Said once by the harness: some operations have no deterministic version on a GPU.
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


def _end_with(driver: int) -> None:
    """Ends this process when its driver is gone, however it went."""
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)


def _work(task: RunTask) -> str:
    from harness.execute import execute

    def tell(epoch: Epoch) -> None:
        _events.get().put((epoch.number, epoch.of, dict(epoch.losses)))

    return execute(task, tell).model_dump_json()
