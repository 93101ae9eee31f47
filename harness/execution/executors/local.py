"""Runs in worker processes on this machine, one for each device, each taking one run after the other.

A worker that crashes, hangs or is killed ends its own run only. Workers are reused while all goes well, and
replaced after any failure, so that none inherits another's broken state (a poisoned CUDA context, leaked
memory). After every run the settings of its process are put back (:mod:`harness.execution.process_state`);
where that cannot be done the worker is replaced too. A run that was out of memory is tried again, alone on
its device.
"""

from __future__ import annotations

import importlib
import logging
import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from harness.common.errors import Terminated, UserError, terminable
from harness.execution.checkpoint import Interrupted
from harness.execution.executors.device_memory import Room
from harness.execution.executors.protocol import once_more, tried_again
from harness.method import Epoch
from harness.spec.record import RunRecord

if TYPE_CHECKING:
    from harness.execution.process_state import ProcessState
    from harness.planning.task import RunTask

OnRunEpoch = Callable[["RunTask", Epoch], None]
# Seconds without a sign of life after which a worker is given up. A library that keeps Python's lock through
# a long call gives none either.
SILENCE = 900.0
# Seconds that runs have to end or to be saved where the system asks for the end; clusters give 30.
GRACE = 20.0


class _Line(NamedTuple):
    """What a worker shares with its driver: it tells of epochs, and is asked to save and leave its run."""

    events: Any
    asked: Any


# A queue is handed over only at a worker's start.
_line: ContextVar[_Line] = ContextVar("line")
_at_work: ContextVar[bool] = ContextVar("at_work", default=False)
# What it was at its first run; every further one begins with the same.
_state: ContextVar[ProcessState | None] = ContextVar("state", default=None)


def run_all(
    tasks: Iterator[RunTask | None],
    devices: Sequence[str],
    timeout: float | None,
    on_start: Callable[[RunTask], None],
    on_epoch: OnRunEpoch,
    silence: float = SILENCE,
) -> Generator[RunRecord | None, None, None]:
    """Executes tasks in worker processes, one for each device, and yields a record for each as they end.

    ``None`` comes in between about once a second, for the caller to look round. Where the system asks this
    process to end (SIGTERM), no further run begins, those that go on have :data:`GRACE` seconds to end or to
    be saved, and :class:`Terminated` is raised.

    Args:
        tasks: the runs, taken by several threads; they begin in this order. ``None``: no run at the moment.
        devices: where to; one that is named twice has two workers.
        timeout: seconds after which a run is ended and recorded as ``timeout``; ``None`` for no limit.
        on_start: told of every run that begins, in the caller's thread.
        on_epoch: told of every epoch that ends, likewise.
        silence: seconds after which a worker that gives no sign of life is ended, its run recorded as failed.
    """
    said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
    stop, leave = threading.Event(), threading.Event()
    # Workers on the CPU share its cores; on a GPU each may need them for its own part of the work.
    sharing = len(devices) if all(device == "cpu" for device in devices) else 1
    rooms = {device: Room() for device in devices}
    limits = timeout, silence
    slots = [_Slot(d, rooms[d], sharing, tasks, said, limits, stop, leave) for d in devices]
    with terminable(leave.set):
        for slot in slots:
            slot.start()
        try:
            running = len(slots)
            while running:
                try:
                    task, news = said.get(timeout=1)
                except queue.Empty:
                    yield None
                    continue
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
    if leave.is_set():
        raise Terminated


# A run and what is told of it: an epoch, its record, or nothing when it begins. Without a run: an error, or
# nothing when a slot has no more to do.
_Said = tuple["RunTask | None", "Epoch | RunRecord | BaseException | None"]


class _Slot(threading.Thread):
    """Takes runs from the queue and has them executed on its device, one after the other."""

    def __init__(  # noqa: PLR0913 - parts of one machine
        self,
        device: str,
        room: Room,
        sharing: int,
        tasks: Iterator[RunTask | None],
        said: queue.SimpleQueue[_Said],
        limits: tuple[float | None, float],
        stop: threading.Event,
        leave: threading.Event,
    ) -> None:
        super().__init__(daemon=True)
        self._device, self._room, self._sharing, self._limits = device, room, sharing, limits
        self._tasks, self._said, self._stop_asked, self._leave = tasks, said, stop, leave
        self._worker: _Worker | None = None

    def run(self) -> None:
        """Ends when there is no further run or the driver asks for it."""
        error: BaseException | None = None
        try:
            for given in self._tasks:
                if self._ended():
                    break
                if given is None:
                    self._stop_asked.wait(0.5)
                    continue
                task = replace(given, device=self._device)
                record = self._run(task, task.share, first=True)
                if once_more(record):
                    record = self._run(task, math.inf, first=False)
                    record = record and tried_again(record)
                if record is None:
                    break
                self._said.put((task, record))
        except BaseException as caught:
            # The driver's thread raises it: nothing may be lost in silence here.
            error = caught
        finally:
            if self._worker:
                self._worker.end()
            self._said.put((None, error))

    def _run(self, task: RunTask, share: float, first: bool) -> RunRecord | None:
        """Has a run executed when the device has room for it; ``None`` where it was left."""
        if not self._room.take(share, self._ended):
            return None
        try:
            self._worker = self._worker or _Worker(self._sharing)
            if first:
                self._said.put((task, None))
            given = (task, *self._limits, self._tell, self._stop_asked, self._leave)
            try:
                record = self._worker.run(*given)
            except BrokenProcessPool:
                # It ended while it had no run, by what an earlier one has left: none of this one's business.
                self._worker.end()
                self._worker = _Worker(self._sharing)
                record = self._worker.run(*given)
            if record is not None and (record.outcome != "ok" or self._worker.changed):
                self._worker.end()
                self._worker = None
            return record
        finally:
            self._room.leave(share)

    def _ended(self) -> bool:
        return self._stop_asked.is_set() or self._leave.is_set()

    def _tell(self, task: RunTask, epoch: Epoch) -> None:
        self._said.put((task, epoch))


class _Worker:
    """A process that takes runs.

    Attributes:
        changed: what the last run has left changed in it, for good.
    """

    def __init__(self, sharing: int) -> None:
        self.changed: list[str] = []
        context = multiprocessing.get_context("spawn")
        self._events, self._asked = context.Queue(), context.Event()
        self._pool = ProcessPool(
            max_workers=1,
            initializer=_begin,
            initargs=(os.getpid(), _Line(self._events, self._asked), sharing),
            context=context,
        )

    def run(
        self,
        task: RunTask,
        timeout: float | None,
        silence: float,
        on_epoch: OnRunEpoch,
        stop: threading.Event,
        leave: threading.Event,
    ) -> RunRecord | None:
        """Returns the record, or ``None`` where the run was left before there was one."""
        from harness.execution.record import failed

        future = self._pool.schedule(_work, args=(task,), timeout=timeout)
        heard, until = time.monotonic(), math.inf
        while not future.done():
            if leave.is_set() and not self._asked.is_set():
                self._asked.set()
                until = time.monotonic() + GRACE
            if stop.is_set() or time.monotonic() > until:
                return None
            if self._tell(task, on_epoch, wait=0.2):
                heard = time.monotonic()
            elif time.monotonic() - heard > silence:
                future.cancel()  # type: ignore[no-untyped-call]
                message = f"the worker process gave no sign of life for {silence:g} s and was ended"
                return failed(task, "failed", message)
        self._tell(task, on_epoch, wait=0.0)
        try:
            content, self.changed = future.result()
            record: RunRecord = RunRecord.model_validate_json(content)
        except TimeoutError:
            return failed(task, "timeout", f"took longer than {timeout:g} s")
        except Interrupted:
            return None
        except ProcessExpired as error:
            return failed(task, "failed", death(error.exitcode))
        except CancelledError:
            return failed(task, "failed", "the run was cancelled")
        return record

    def _tell(self, task: RunTask, on_epoch: OnRunEpoch, wait: float) -> bool:
        """Hands on the epochs that have ended; returns whether the worker said anything at all."""
        heard = False
        while True:
            try:
                said = self._events.get(timeout=wait) if wait else self._events.get_nowait()
            except queue.Empty:
                return heard
            heard = True
            if said is not None:
                on_epoch(task, Epoch(*said))

    def end(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        # A worker stopped while it is still being born may never report; it ends itself with its driver.
        with suppress(TimeoutError):
            self._pool.join(timeout=10)
        self._events.close()


def death(exitcode: int | None) -> str:
    """Says how a worker process ended that gave no record."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        reason = "; the system does that when memory runs out" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{reason}"
    return f"the worker process ended by itself with exit code {exitcode}"


def _begin(driver: int, line: _Line, sharing: int) -> None:
    _line.set(line)
    if sharing > 1:
        import torch

        torch.set_num_threads(max(torch.get_num_threads() // sharing, 1))
    # Both reach the whole process group; the driver alone decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SLURM tells every process of a job by one of these that it takes the job back.
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None if _at_work.get() else os._exit(143))
    # Starts the queue's own thread.
    line.events.put(None)
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    threading.Thread(target=_beat, args=(line.events,), daemon=True).start()
    logging.getLogger("timm").setLevel(logging.ERROR)
    # Said once by the harness: some operations have no deterministic version on a GPU.
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


def _end_with(driver: int) -> None:
    """Ends this process when its driver is gone, however it went."""
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)


def _beat(events: Any) -> None:
    """Tells the driver that this process lives: one that is stopped, or stuck in a call, does not."""
    while True:
        events.put(None)
        time.sleep(5)


def _work(task: RunTask) -> tuple[str, list[str]]:
    """Returns the record as JSON, and what the run has left changed in this process for good."""
    import torch

    from harness.execution.devices import seed_everything
    from harness.execution.process_state import ProcessState
    from harness.execution.run import execute
    from harness.profiling.memory import release

    def tell(epoch: Epoch) -> None:
        _line.get().events.put((epoch.number, epoch.of, dict(epoch.losses)))

    # What the harness sets itself is no change, and neither is what a declared library does when imported.
    seed_everything(task.spec.seed)
    imported = _import_libraries(task)
    if (state := _state.get()) is None or imported:
        _state.set(state := ProcessState())
    _at_work.set(True)
    try:
        return execute(task, tell, _line.get().asked.is_set).model_dump_json(), _restored(state)
    finally:
        # Others on the device may begin before this process has another run.
        release(torch.device(task.device))
        _at_work.set(False)


def _import_libraries(task: RunTask) -> bool:
    """Imports what an installed method declares that it needs; returns whether anything was new."""
    from harness.registry.methods import configure, load_method

    before = len(sys.modules)
    if not task.identity.source:
        with suppress(UserError, ImportError), warnings.catch_warnings():  # the run itself will say so
            warnings.simplefilter("ignore")
            method = load_method(task.method)
            for module in method.needs(configure(method, task.spec.method, task.identity.config)).modules:
                importlib.import_module(module)
    return len(sys.modules) > before


def _restored(state: ProcessState) -> list[str]:
    try:
        return state.restore()
    except Exception as error:  # in a process that is spoilt enough anything may fail; its run is done
        return [f"{type(error).__name__}: {error}"]
