"""Which of several records of one run counts: the newest, by a number that only grows within a folder.

The time of day is set back, and differs between machines. So a record gets a number as it is written: the
time in milliseconds, or one more than the folder's last number where that is not less. Within a folder the
numbers are in the order of writing, always; of two folders put together they are in the order of time, as far
as clocks were right. The last number stands in ``.order`` in the results folder; records from before there
were numbers count as of the time when they were finished.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.claims import SUFFIX
from harness.files import write_atomically
from harness.spec import RunRecord
from harness.store import Folder, cannot_write, order_of, rank, record_names, record_path, replace_record

if TYPE_CHECKING:
    from harness.execute import RunTask

LAST = ".order"
# Seconds to wait for another driver, which holds the lock for milliseconds. A share without locks may keep
# that of a dead one; two equal numbers do less harm than a record that is not written.
_PATIENCE = 10.0


def next_number(results: Path) -> int:
    """Returns a number larger than any that was given to a record of this folder.

    Raises:
        UserError: the folder cannot be written.
    """
    with _locked(results):
        number = max(_last(results) + 1, time.time_ns() // 1_000_000)
        _write(results, number)
    return number


def raise_to(results: Path, number: int) -> None:
    """Makes sure that the next number is larger than one that a record in the folder has.

    Raises:
        UserError: the folder cannot be written.
    """
    if number > _last(results):
        with _locked(results):
            _write(results, max(number, _last(results)))


def highest(folder: Folder, records: Iterable[RunRecord]) -> int:
    """Returns a number that no record of a folder is above, without reading all of them.

    It is the latest time of change of a file, or the largest number of some records: files may have been put
    here by hand.

    Args:
        folder: the results folder.
        records: those of its records that were changed last.
    """
    changed = (state[2] // 1_000_000 for _, state in folder.states() if state)
    return max([0, *map(order_of, records), *changed])


def take_up(results: Path, kept: Iterable[RunTask]) -> list[RunRecord]:
    """Has records of private methods count that are of their file's present content.

    Whoever goes back to an earlier content of a file finds its runs done; but those of the later content were
    recorded after them. Returns the records that got a new number.

    Args:
        results: the results folder.
        kept: runs that are done, their method's file being as it is now.

    Raises:
        UserError: the folder cannot be read or written.
    """
    own: dict[str, list[RunTask]] = defaultdict(list)
    for task in kept:
        if task.identity.source:
            own[_place(record_path(Path(), task.spec, task.key))].append(task)
    if not own:
        return []
    folder, taken = Folder(results), list[RunRecord]()
    others: dict[str, list[str]] = defaultdict(list)
    for name in record_names(results):
        others[name.rpartition("/")[0]].append(name)
    for place, tasks in own.items():
        keys = {f"{place}/{task.key}.json" for task in tasks}
        rivals: dict[str, RunRecord] = {}
        for name in others[place]:
            if name not in keys and isinstance(record := folder.record(name), RunRecord):
                run = record.spec.model_dump_json()
                rivals[run] = max(rivals.get(run, record), record, key=rank)
        for task in tasks:
            rival = rivals.get(task.spec.model_dump_json())
            if rival is not None and (renumbered := _renumbered(folder, task, rival)):
                taken.append(renumbered)
    return taken


def _renumbered(folder: Folder, task: RunTask, rival: RunRecord) -> RunRecord | None:
    path = record_path(folder.results, task.spec, task.key)
    lock = FileLock(path.with_suffix(SUFFIX), thread_local=False)
    # Whoever has claimed the run writes its record, with a new number.
    with suppress(Timeout), lock.acquire(blocking=False):
        try:
            known = folder.record(path.relative_to(folder.results).as_posix())
            if isinstance(known, RunRecord) and rank(known) < rank(rival):
                record = known.model_copy(update={"order": next_number(folder.results)})
                replace_record(folder.results, path, record)
                return record
        finally:
            path.with_suffix(SUFFIX).unlink(missing_ok=True)
    return None


def _place(path: Path) -> str:
    return path.parent.as_posix()


def _last(results: Path) -> int:
    # Without it, or where it is damaged, numbers go on from the time and from the records.
    with suppress(OSError, ValueError):
        return int((results / LAST).read_bytes()[:20])
    return 0


def _write(results: Path, number: int) -> None:
    try:
        write_atomically(results / LAST, f"{number}\n".encode(), settle=False)
    except OSError as error:
        raise cannot_write(results, error) from error


@contextmanager
def _locked(results: Path) -> Iterator[None]:
    lock = FileLock(results / f"{LAST}{SUFFIX}", thread_local=False)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.005)
    except Timeout:
        yield
        return
    except OSError as error:
        raise cannot_write(results, error) from error
    try:
        yield
    finally:
        # While it is locked: whoever gets the lock of a file without a name tries again with a new one.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
