"""Runs in worker processes on this machine, one for each device, each taking one run after the other.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, TimeoutError
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
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
    tasks: Iterable[RunTask],
    devices: Sequence[str],
    timeout: float | None,
    on_start: Callable[[RunTask], None],
    on_epoch: Progress,
) -> Iterator[RunRecord]:
    """Executes tasks in worker processes, one for each device, and yields a record for each as they end.

    Args:
        tasks: the runs; they begin in this order.
        devices: where to; one that is named twice has two workers.
        timeout: seconds after which a run is ended and recorded as ``timeout``; ``None`` for no limit.
        on_start: told of every run that begins, in the caller's thread.
        on_epoch: told of every epoch that ends, likewise.
    """
    waiting: queue.SimpleQueue[RunTask] = queue.SimpleQueue()
    for one in tasks:
        waiting.put(one)
    said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
    stop = threading.Event()
    # Workers on the CPU share its cores; on a GPU each may need them for its own part of the work.
    sharing = len(devices) if all(device == "cpu" for device in devices) else 1
    slots = [_Slot(device, sharing, waiting, said, timeout, stop) for device in devices]
    for slot in slots:
        slot.start()
    try:
        running = len(slots)
        while running:
            task, news = said.get()
            if isinstance(news, RunRecord):
                yield news
            elif isinstance(news, Epoch) and task:
                on_epoch(task, news)
            elif isinstance(news, BaseException):
                raise news
            elif task:
                on_start(task)
            else:
                running -= 1
    finally:
        stop.set()
        for slot in slots:
            slot.join()


# A run and what is told of it: an epoch, its record, or nothing when it begins. Without a run: an error, or
# nothing when a slot has no more to do.
_Said = tuple["RunTask | None", "Epoch | RunRecord | BaseException | None"]


class _Slot(threading.Thread):
    """Takes runs from the queue and has them executed on its device, one after the other."""

    def __init__(
        self,
        device: str,
        sharing: int,
        waiting: queue.SimpleQueue[RunTask],
        said: queue.SimpleQueue[_Said],
        timeout: float | None,
        stop: threading.Event,
    ) -> None:
        super().__init__(daemon=True)
        self._device, self._sharing, self._timeout = device, sharing, timeout
        self._waiting, self._said, self._stop_asked = waiting, said, stop

    def run(self) -> None:
        """Ends when the queue is empty or the driver asks for it."""
        worker: _Worker | None = None
        error: BaseException | None = None
        try:
            while not self._stop_asked.is_set():
                try:
                    task = replace(self._waiting.get_nowait(), device=self._device)
                except queue.Empty:
                    break
                worker = worker or _Worker(self._sharing)
                self._said.put((task, None))
                record = worker.run(task, self._timeout, self._tell, self._stop_asked)
                if record is None:
                    break
                if record.outcome != "ok":
                    worker.end()
                    worker = None
                self._said.put((task, record))
        except BaseException as caught:
            # The driver's thread raises it: nothing may be lost in silence here.
            error = caught
        finally:
            if worker:
                worker.end()
            self._said.put((None, error))

    def _tell(self, task: RunTask, epoch: Epoch) -> None:
        self._said.put((task, epoch))


class _Worker:
    def __init__(self, sharing: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()
        self._pool = ProcessPool(
            max_workers=1,
            initializer=_begin,
            initargs=(os.getpid(), self._events, sharing),
            context=context,
        )

    def run(
        self, task: RunTask, timeout: float | None, on_epoch: Progress, stop: threading.Event
    ) -> RunRecord | None:
        """Returns the record, or ``None`` where the driver asked to stop before there was one."""
        from harness.execute import failed

        future = self._pool.schedule(_work, args=(task,), timeout=timeout)
        while not future.done():
            if stop.is_set():
                return None
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


def _begin(driver: int, events: Any, sharing: int) -> None:
    _events.set(events)
    if sharing > 1:
        import torch

        torch.set_num_threads(max(torch.get_num_threads() // sharing, 1))
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
