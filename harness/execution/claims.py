"""Which runs this process does, where several `bench run` have been given the same results folder.

A run is claimed by a lock of the operating system on ``<key>.claim`` beside its record to be. The system
lifts the lock when the process ends, however it ends: a claim of a dead process holds nobody up. A network
share must know locks for this (NFS 4 and SMB 3 do). Where one knows none, ``filelock`` warns, and the file's
being there is the claim; then what a dead process of another machine has claimed waits until it is removed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from harness.results.artefacts import claim_path
from harness.results.locks import remove_lock
from harness.results.store import FileState, Folder, cannot_write, changed, read_record
from harness.spec.record import RunRecord

if TYPE_CHECKING:
    from harness.planning.task import RunTask


class Claims:
    """Yields the runs that this process shall do, each claimed first; several threads may take them.

    ``None`` in between: all runs that are left are being done by others; ask again a little later. What
    others have recorded since the runs were planned is not done again, and comes to :meth:`found`.

    Args:
        tasks: the runs, in their order.
        planned_on: the state of the records' files that the plan was made on, by key.
    """

    def __init__(self, tasks: Iterable[RunTask], planned_on: Mapping[str, FileState]) -> None:
        self._open = deque(tasks)
        self._planned_on = planned_on
        self._elsewhere: deque[RunTask] = deque()
        self._held: dict[str, FileLock] = {}
        self._found: list[RunRecord] = []
        self._folders: dict[Path, Folder] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RunTask | None:
        """Returns a run of one's own, or ``None`` for nothing at the moment.

        Raises:
            StopIteration: every run is done, or claimed by this process.
            UserError: the results folder cannot be written.
        """
        with self._lock:
            while self._open:
                task = self._open.popleft()
                if self._take(task):
                    return task
            for _ in range(len(self._elsewhere)):
                task = self._elsewhere.popleft()
                if self._take(task):
                    return task
            if self._elsewhere:
                return None
            raise StopIteration

    def found(self) -> list[RunRecord]:
        """Returns, once each, the records that others have made of runs that were to be done here."""
        with self._lock:
            new, self._found = self._found, []
            return new

    def release(self, key: str) -> None:
        """Gives up a claim: the run has its record."""
        with self._lock:
            remove_lock(self._held.pop(key))

    def close(self) -> None:
        """Gives up all claims."""
        with self._lock:
            while self._held:
                remove_lock(self._held.popitem()[1])

    def _take(self, task: RunTask) -> bool:
        """Claims a run; if it is claimed or done already, puts it where it belongs."""
        path = task.record_path
        lock = FileLock(claim_path(path), thread_local=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            self._elsewhere.append(task)
            return False
        except OSError as error:
            raise cannot_write(task.places.results, error) from error
        folder = self._folders.setdefault(task.places.results, Folder(task.places.results))
        state = folder.state(path.relative_to(task.places.results).as_posix())
        record = read_record(path) if changed(state, self._planned_on.get(task.key)) else ""
        if isinstance(record, RunRecord):
            self._found.append(record)
            remove_lock(lock)
            return False
        self._held[task.key] = lock
        return True
