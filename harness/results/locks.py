"""Locks of a results folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.common.errors import UserError
from harness.results.artefacts import CLAIM, all_claims
from harness.results.store import COMPACTED, cannot_write


def sweep(results: Path) -> None:
    """Removes the claims that dead processes have left."""
    for path in all_claims(results):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            continue
        remove_lock(lock)


def remove_lock(lock: FileLock) -> None:
    """Removes a lock's file and lets go of it."""
    # While it is locked: whoever gets the lock of a file without a name tries again with a new one.
    with suppress(OSError):  # a folder that cannot be written has been said
        Path(lock.lock_file).unlink()
    with suppress(OSError):
        lock.release()


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Makes sure that no other process moves, merges or scores these records meanwhile; runs may go on.

    Raises:
        UserError: another does, or the folder cannot be written.
    """
    lock = FileLock(results / f"{COMPACTED}{CLAIM}", thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"Another process compacts, expands, merges or scores the records of {results}: wait for it."
        ) from error
    except OSError as error:
        raise cannot_write(results, error) from error
    try:
        yield
    finally:
        # While it is locked: whoever gets the lock of a file without a name tries again with a new one.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
