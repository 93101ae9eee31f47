"""Runs as tasks of a Ray cluster: one that is there, or one of this machine that ends with the command.

The driver takes as many runs as the cluster has room for, and starts a run again whose worker process or node
is lost. Ray would do that by itself (``max_retries``), but does not tell: a run that waits for another worker
could not be told from one that takes too long. What goes wrong inside a run is in its record, and final; but
one that was out of memory is tried once more, with a whole GPU or all CPUs of a node to itself.

Each run has a process of its own, see :mod:`harness.execution.executors.ray_worker`; it tells of itself every
second to an actor, which the driver asks for news.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before Ray is loaded: what it has to say of lost workers is said here; nothing is reported to its makers.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import exceptions

from harness.common.errors import Terminated, UserError, terminable
from harness.execution.executors.local import GRACE
from harness.execution.executors.protocol import ReadyExecutor, once_more, tried_again
from harness.execution.executors.ray_runs import LOST, Going, lost, overdue
from harness.execution.executors.ray_transfer import pack_task, package
from harness.execution.executors.ray_worker import Host, Post, Said, work
from harness.method import Epoch
from harness.spec.record import RunRecord

if TYPE_CHECKING:
    from harness.planning.task import RunTask

# How often a run is started again whose worker or node was lost.
RETRIES = 3
# Bytes for what Ray keeps in shared memory on its own cluster: records, the only things that pass through it.
_OBJECTS = 10**8
_DEVICES = ("auto", "cpu", "cuda")


@contextmanager
def connected(address: str | None, device: str, per_run: float) -> Iterator[ReadyExecutor]:
    """Joins a cluster, or starts one on this machine and ends it at the end.

    Args:
        address: ``auto`` for the cluster that this machine belongs to, or ``host:port``; ``None`` for one of
            this machine's own.
        device: ``auto`` (GPUs if there are any), ``cpu`` or ``cuda``.
        per_run: GPUs of each run, or CPUs where there are none.

    Raises:
        UserError: there is no such cluster or device.
    """
    if device not in _DEVICES:
        raise UserError(
            f"--device {device}: Ray chooses the GPU of each run, so that there are {', '.join(_DEVICES)}."
        )
    if address is not None and address.startswith("ray://"):
        raise UserError(
            f"--address {address}: a driver outside the cluster (Ray's client) is not supported: run this on "
            "a machine of the cluster, with --address auto or host:6379."
        )
    # Ray puts its own in this one's place.
    at_end = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if address is None:
            # A short path: those of sockets below it may have about 100 characters.
            made = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            folder = stack.enter_context(made)
            stack.callback(ray.shutdown)
            _start(folder)
        else:
            stack.callback(ray.shutdown)
            _join(address)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_end)
        yield _place(address, device, per_run)


def _start(folder: str) -> None:
    # Ray lets its workers give way to all else, and measuring would see that.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address="local",
            num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            object_store_memory=_OBJECTS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    except Exception as error:  # Ray raises whatever it stumbles over, and its base class on a busy machine
        said = " ".join(str(error).split())
        raise UserError(
            f"Ray cannot be started on this machine ({said}): try again, or leave --executor ray out."
        ) from error


def _join(address: str) -> None:
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdigit():
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            package(Path(folder))
            ray.init(
                address,
                runtime_env={"working_dir": folder},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, ImportError, exceptions.RayError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"There is no Ray cluster to join at '{address}' ({said}): start one by `ray start --head`, with "
            "the same versions of Ray and Python as here, or leave --address out."
        ) from error


def _place(address: str | None, device: str, per_run: float) -> ReadyExecutor:
    there = ray.cluster_resources()
    if device == "auto":
        device = "cuda" if there.get("GPU") else "cpu"
    kind = "GPU" if device == "cuda" else "CPU"
    count = there.get(kind, 0)
    if address is None and count < per_run:
        raise UserError(f"This machine has {count:g} {kind}s, and a run needs {per_run:g}: see --per-run.")
    nodes = sum(node["Alive"] for node in ray.nodes())
    about = f"a Ray cluster (nodes: {nodes}, {kind}s: {count:g})"
    cluster = _Cluster(kind, per_run, may_grow=address is not None)
    name = "cuda:0" if device == "cuda" else "cpu"
    return ReadyExecutor((name,) * max(cluster.room(), 1), about, cluster.run_all)


class _Cluster:
    """The cluster that this process is connected to.

    Args:
        kind: what a run needs, ``GPU`` or ``CPU``.
        per_run: how many of them.
        may_grow: whether more runs than there is room for are handed over, so that Ray sees a need for nodes.
    """

    def __init__(self, kind: str, per_run: float, may_grow: bool) -> None:
        from harness.profiling.environment import git_commit

        self._kind, self._per_run, self._may_grow = kind, per_run, may_grow
        # Code that travels leaves behind which commit it is of.
        commit = git_commit()
        self._commit = {"git": commit} if commit else {}
        amount = {"num_gpus": per_run, "num_cpus": 1} if kind == "GPU" else {"num_cpus": per_run}
        # max_calls: no run inherits anything from another.
        self._remote = ray.remote(max_calls=1, max_retries=0, **amount)(work)
        # On the head, which outlives the other nodes.
        head = {"node:__internal_head__": 0.001}
        self._post = ray.remote(Post).options(num_cpus=0, max_restarts=-1, resources=head).remote()

    def room(self) -> int:
        """How many runs can go on at a time; a cluster may grow and shrink."""
        return int(ray.cluster_resources().get(self._kind, 0) / self._per_run + 1e-6)

    def run_all(
        self,
        tasks: Iterator[RunTask | None],
        devices: Sequence[str],
        timeout: float | None,
        on_start: Callable[[RunTask], None],
        on_epoch: Callable[[RunTask, Epoch], None],
    ) -> Generator[RunRecord | None, None, None]:
        """See :class:`harness.execution.executors.protocol.RunAll`."""
        going: dict[str, Going] = {}
        leave = threading.Event()
        until, more = math.inf, True
        with terminable(leave.set):
            try:
                while time.monotonic() < until:
                    if leave.is_set():
                        until = min(until, time.monotonic() + GRACE)
                        self._leave(going)
                    else:
                        more = self._fill(going, tasks, devices[0])
                    if not going and (leave.is_set() or not more):
                        break
                    ended = self._wait(going)
                    self._hear(going, on_start, on_epoch)
                    for one in ended:
                        if (record := self._result(one, leave.is_set())) is not None:
                            if not one.told:
                                on_start(one.task)
                            yield record
                        if record is not None or leave.is_set():
                            del going[one.task.key]
                    for one in list(going.values()):
                        if (record := overdue(one, timeout)) is not None:
                            _cancel([going.pop(one.task.key)])
                            yield record
                    yield None
            finally:
                _cancel(going.values())
        if leave.is_set():
            raise Terminated

    def _fill(self, going: dict[str, Going], tasks: Iterator[RunTask | None], device: str) -> bool:
        """Hands over runs while there is room; returns whether there may be more."""
        room = self.room()
        most = room + (max(room, 1) if self._may_grow else 0)
        while len(going) < most:
            try:
                task = next(tasks)
            except StopIteration:
                return False
            if task is None:
                break
            task = replace(task, device=device)
            going[task.key] = Going(task, self._submit(task, 1, alone=False))
        return True

    def _submit(self, task: RunTask, attempt: int, alone: bool) -> Any:
        given = pack_task(task) if self._may_grow else task
        amount = self._whole() if alone else {}
        options = self._remote.options(name=task.spec.label(), **amount)
        return options.remote(given, self._post, attempt, self._per_run)

    def _whole(self) -> dict[str, float]:
        """What Ray is asked for so that nothing else is on the device: a whole GPU, or a node's CPUs."""
        if self._kind == "GPU":
            return {"num_gpus": max(math.ceil(self._per_run), 1)}
        nodes = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
        return {"num_cpus": max(*nodes, self._per_run)}

    def _start_again(self, one: Going) -> None:
        one.attempt, one.began = one.attempt + 1, None
        one.ref = self._submit(one.task, one.attempt, one.alone)

    def _leave(self, going: dict[str, Going]) -> None:
        """Asks runs to be saved and left; those that wait are called off."""
        self._post.ask.remote()
        waiting = [one for one in going.values() if one.began is None]
        _cancel(going.pop(one.task.key) for one in waiting)

    def _wait(self, going: dict[str, Going]) -> list[Going]:
        """Returns the runs that have ended; waits a second at most."""
        if not going:
            time.sleep(1)
            return []
        by_ref = {one.ref: one for one in going.values()}
        ended, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        if not ended:
            ended, _ = ray.wait(list(by_ref), timeout=1)
        return [by_ref[ref] for ref in ended]

    def _hear(
        self,
        going: dict[str, Going],
        on_start: Callable[[RunTask], None],
        on_epoch: Callable[[RunTask, Epoch], None],
    ) -> None:
        """Takes in what the workers have told since the last time."""
        said: list[Said] = []
        # If it was lost with its node Ray starts another, and whoever lives tells so within a second.
        with suppress(exceptions.RayActorError, exceptions.GetTimeoutError):
            said = ray.get(self._post.take.remote(), timeout=10)
        now = time.monotonic()
        for key, attempt, news in said:
            one = going.get(key)
            if one is None or one.attempt != attempt:
                continue
            one.heard = now
            one.began = one.began or now
            if isinstance(news, Host):
                one.host, one.environment = news.name, news.environment
            if not one.told:
                one.told = True
                where = f"{one.task.device} on {one.host}" if one.host else one.task.device
                on_start(replace(one.task, device=where))
            if isinstance(news, Epoch):
                on_epoch(one.task, news)

    def _result(self, one: Going, leaving: bool) -> RunRecord | None:
        """Returns a run's record; ``None`` where there is none, because it was left, or is started again."""
        try:
            text: str | None = ray.get(one.ref)
        except LOST as error:
            if leaving:
                return None
            one.lost += 1
            if one.lost > RETRIES:
                return lost(one, error)
            one.alone = one.alone or isinstance(error, exceptions.OutOfMemoryError)
            self._start_again(one)
            return None
        # Ray raises a RuntimeError where a node cannot even import this module.
        except (exceptions.RuntimeEnvSetupError, ImportError, RuntimeError) as error:
            said = " ".join(str(error).split())[-300:]
            raise UserError(
                f"A node of the Ray cluster cannot execute runs ({said}): install on all nodes what "
                "ulsad-bench needs, see docs/cluster.md."
            ) from error
        if text is None:
            return None
        record = RunRecord.model_validate_json(text)
        if once_more(record) and not one.alone:
            if leaving:
                return None
            one.alone = True
            self._start_again(one)
            return None
        record = record.model_copy(update={"environment": self._commit | record.environment})
        return tried_again(record) if one.alone else record


def _cancel(runs: Any) -> None:
    refs = [one.ref for one in runs]
    for ref in refs:
        ray.cancel(ref, force=True)
    if refs:
        # Until they are gone: what they write must not meet what the next process writes.
        ray.wait(refs, num_returns=len(refs), timeout=10)
