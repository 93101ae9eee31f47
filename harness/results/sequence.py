"""Which of several records of one run counts: the newest, by a number that only grows within a folder.

The time of day is set back, and differs between machines. So a record gets a number as it is written: the
time in milliseconds, or one more than the folder's last number where that is not less. Within a folder the
numbers are in the order of writing, always; of two folders put together they are in the order of time, as far
as clocks were right. The last number stands in ``.order`` in the results folder; records from before there
were numbers count as of the time when they were finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.common.files import write_atomically
from harness.results.artefacts import CLAIM
from harness.results.store import (
    Folder,
    cannot_write,
    order_of,
)
from harness.spec.record import RunRecord

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
    lock = FileLock(results / f"{LAST}{CLAIM}", thread_local=False)
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
