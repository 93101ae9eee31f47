"""Records from their files into ``records.parquet``, and back, byte for byte.

Nothing is removed before what takes its place is on the disk and has been read back: killed at any moment,
every record is in one of the two, or in both with the same content, and the same command goes on. Runs may
go on meanwhile: a record that they write anew stays a file, and a file counts before what is compacted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UserError
from harness.common.files import is_plain_file, temporary_name, write_atomically
from harness.results.artefacts import CLAIM
from harness.results.locks import alone, sweep
from harness.results.parquet import Compacted, RecordRow, Writer, parts
from harness.results.store import (
    COMPACTED,
    Damaged,
    FileState,
    Folder,
    cannot_write,
    file_names,
    parse_record,
    prepare_folder,
    record_path,
    state_of,
)


@dataclass(frozen=True)
class Moved:
    """What became of it.

    Attributes:
        records: how many records were moved.
        left: path and reason of each file that stays where it is.
        size: bytes of the compacted records afterwards.
    """

    records: int
    left: tuple[tuple[Path, str], ...]
    size: int


def compact(results: Path) -> Moved:
    """Moves the records that are files into ``records.parquet``, beside those that are there.

    A file that is no readable record, or lies where its run does not belong, stays as it is.

    Raises:
        UserError: there is no such folder, it cannot be written, pyarrow is not installed, or another process
            does the same.
    """
    _check(results)
    with alone(results):
        taken: dict[str, FileState] = {}
        left: list[tuple[Path, str]] = []
        if files := file_names(results):
            _rewrite(results, lambda: _rows(results, files, taken, left))
        sweep(results)
        try:
            moved = sum(_remove_file(f"{results}/{name}", state) for name, state in taken.items())
        except OSError as error:
            raise cannot_write(results, error) from error
        return Moved(moved, tuple(left), _size(results))


def expand(results: Path) -> Moved:
    """Writes compacted records as the files that they were, with the same time of change.

    Raises:
        UserError: there is no such folder, nothing in it is compacted, it cannot be read or written, or
            another process does the same.
    """
    _check(results)
    with alone(results):
        there = _compacted(results)
        there.names()  # in order, each once
        count = 0
        try:
            for row in there.rows():
                path = results / row.name
                # A file is newer.
                if state_of(path) is None:
                    write_atomically(path, row.json, settle=False)
                    os.utime(path, ns=(row.modified, row.modified))
                    count += 1
            # Until now they may be in memory alone.
            if hasattr(os, "sync"):
                os.sync()
            (results / COMPACTED).unlink()
        except OSError as error:
            raise cannot_write(results, error) from error
        return Moved(count, (), 0)


def drop(results: Path, names: Collection[str]) -> None:
    """Removes records from the compacted ones.

    Raises:
        UserError: they cannot be read or written, or another process does so.
    """
    there = Folder(results).compacted()
    if there is not None and any(there.known(name) for name in names):
        with alone(results):
            there = _compacted(results)
            _rewrite(results, lambda: (row for row in there.rows() if row.name not in names))


def _check(results: Path) -> None:
    if not results.is_dir():
        raise UserError(f"There is no results folder {results}: give --results.")


def _rows(
    results: Path, files: Sequence[str], taken: dict[str, FileState], left: list[tuple[Path, str]]
) -> Iterator[RecordRow]:
    """Yields all records in order; notes the states of the files taken in, and what is left."""
    folder = Folder(results)
    there = folder.compacted()
    known = there.rows() if there else iter(())
    row = next(known, None)
    for name in files:
        while row is not None and parts(row.name) < parts(name):
            yield row
            row = next(known, None)
        state = state_of(results / name)
        found = _row(folder, name, state)
        if isinstance(found, RecordRow):
            taken[name] = state
            yield found
        else:
            left.append((results / name, found))
        if row is not None and row.name == name:
            if name not in taken:
                yield row
            row = next(known, None)
    if row is not None:
        yield row
        yield from known


def _row(folder: Folder, name: str, state: FileState) -> RecordRow | str:
    """Returns a file as a row, or in a few words why it stays a file."""
    path = folder.results / name
    if state is None or not is_plain_file(path):
        return "is no file"
    try:
        content = folder.content(name)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    record = parse_record(content)
    if isinstance(record, Damaged):
        return record.why
    if record_path(Path(), record.spec, record.key) != Path(name):
        return "lies elsewhere than its run belongs"
    return RecordRow(name, record.outcome, record.fingerprint.metrics_version, state[2], content)


def _rewrite(results: Path, rows: Callable[[], Iterator[RecordRow]]) -> None:
    """Puts a new file in the place of the compacted records, once what was written reads the same."""
    prepare_folder(results)
    path = results / COMPACTED
    temporary = results / temporary_name(path.name)
    try:
        written, read = hashlib.sha256(), hashlib.sha256()
        with Writer(temporary) as writer:
            for row in rows():
                _add(written, row)
                writer.add(row)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        for row in Compacted(temporary).rows():
            _add(read, row)
        if written.digest() != read.digest():
            raise UserError(
                f"{temporary} reads otherwise than it was written: nothing is changed; check the disk."
            )
        if writer.count:
            temporary.replace(path)
        else:
            path.unlink(missing_ok=True)
        _settle(results)
    except OSError as error:
        raise cannot_write(results, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _compacted(results: Path) -> Compacted:
    there = Folder(results).compacted()
    if there is None:
        raise UserError(f"No records of {results} are compacted: there is no {results / COMPACTED}.")
    return there


def _add(digest: hashlib._Hash, row: RecordRow) -> None:
    digest.update(f"{row.name} {row.outcome} {row.metrics_version} {row.modified} {len(row.json)}\n".encode())
    digest.update(row.json)


def _remove_file(path: str, state: FileState) -> bool:
    """Removes a file that is compacted now, unless a run has written it anew, or is about to."""
    # A run claims its record long before it writes it. To hold a million claims would take minutes.
    if os.path.exists(f"{path.removesuffix('.json')}{CLAIM}"):  # noqa: PTH110 - many times faster than a Path
        return False
    if _state(path) != state:
        return False
    os.unlink(path)  # noqa: PTH108 - likewise
    return True


def _state(path: str) -> FileState:
    try:
        found = os.stat(path)  # noqa: PTH116 - likewise
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _settle(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _size(results: Path) -> int:
    path = results / COMPACTED
    return path.stat().st_size if path.is_file() else 0
