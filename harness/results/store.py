"""The results folder: one JSON file per run, there whole or not at all; two folders merge by copying.

Layout: ``results/<dataset>/<category>/<method>/<key>.json``. Of very many the files are put into one,
``records.parquet`` (:mod:`harness.results.compaction`); all that reads records finds them there as if they
were files. Where a record is in both, the file counts: it was written later. What a run was asked to keep
lies beside its record as ``<key>.maps.safetensors`` and ``<key>.weights.safetensors``, what a report shows of
maps as ``<key>.view.safetensors`` (:mod:`harness.results.map_views`), and pictures of the test images in the
category's folder (:mod:`harness.results.category_pictures`).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from heapq import merge, nlargest
from pathlib import Path

from pydantic import ValidationError

from harness.common.errors import UserError
from harness.common.files import read_bounded, remove_leftovers, write_atomically
from harness.results.loaded import Damaged as Damaged
from harness.results.loaded import Loaded as Loaded
from harness.results.parquet import COMPACTED as COMPACTED
from harness.results.parquet import Compacted, parts
from harness.spec.names import slug
from harness.spec.record import SCHEMA_VERSION, RunRecord, checksum
from harness.spec.run import RunSpec

# A record of a thousand epochs takes a few hundred kB; one may come from anybody.
LARGEST = 32 * 1024**2
_KEY = re.compile("[0-9a-f]{16}")


# What tells whether a file has been written anew: inode, size and time of change; None where there is none.
# The inode is 0 where the record is compacted.
FileState = tuple[int, int, int] | None


def record_path(results: Path, spec: RunSpec, key: str) -> Path:
    """Returns where the record of a run lies."""
    return results / slug(spec.dataset) / slug(spec.category) / slug(spec.method) / f"{key}.json"


def write_record(results: Path, record: RunRecord) -> Path:
    """Writes a record and returns its path.

    Raises:
        UserError: the folder cannot be written or the disk is full; what is there already stays.
    """
    path = record_path(results, record.spec, record.key)
    replace_record(results, path, record)
    return path


def replace_record(results: Path, path: Path, record: RunRecord) -> None:
    """Writes a record, with its checksum, to where it was found.

    Raises:
        UserError: as :func:`write_record`.
    """
    content = json.loads(record.model_dump_json())
    record = record.model_copy(update={"checksum": checksum(content)})
    try:
        write_atomically(path, record.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise cannot_write(results, error) from error


def state_of(file: Path | os.DirEntry[str]) -> FileState:
    """Returns what tells a file's present content from another."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_record(path: Path) -> RunRecord | Damaged:
    """Returns a record, or in a few words why the file is none.

    Raises:
        UserError: it is compacted, and that cannot be read.
    """
    try:
        content = read_bounded(path, LARGEST)
    except OSError as error:
        if not (isinstance(error, FileNotFoundError) and len(path.parents) > 3):
            return Damaged(f"cannot be read: {error.strerror or error}")
        folder = Folder(path.parents[3])
        return folder.record(path.relative_to(folder.results).as_posix())
    return parse_record(content)


def changed(state: FileState, earlier: FileState) -> bool:
    """Whether a record is another than it was; to be compacted, or to be a file again, changes nothing."""
    if state and earlier and 0 in (state[0], earlier[0]):
        return state[1:] != earlier[1:]
    return state != earlier


class Folder:
    """The records of a results folder, be they files or compacted; folders in it are listed once.

    Others may compact and expand them meanwhile.

    Args:
        results: the folder, which need not be there.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self._listed: dict[str, dict[str, os.DirEntry[str]]] = {}
        self._compacted: Compacted | None = None
        self._state: FileState = None

    def compacted(self) -> Compacted | None:
        """Returns the compacted records as they are now.

        Raises:
            UserError: they cannot be read.
        """
        path = self.results / COMPACTED
        if (state := state_of(path)) != self._state:
            self._compacted = Compacted(path) if state else None
            self._state = state
        return self._compacted

    def inside(self, folder: str) -> dict[str, os.DirEntry[str]]:
        """Returns the entries of a folder within the results, in order; none where there is no such folder.

        Raises:
            UserError: it cannot be read.
        """
        if folder not in self._listed:
            self._listed[folder] = {entry.name: entry for entry in _inside(self.results, folder)}
            # Afterwards: what was compacted in between is not missed.
            self.compacted()
        return self._listed[folder]

    def compacted_then(self) -> Compacted | None:
        """Returns the compacted records as they were last seen, after any folder was listed."""
        return self._compacted

    def states(self) -> Iterator[tuple[str, FileState]]:
        """Yields where records lie, in no order, and what tells their content from another.

        Raises:
            UserError: a folder cannot be read, or the compacted records cannot.
        """
        files = set[str]()
        for folder in _folders(self.results):
            for name, entry in self.inside(folder).items():
                if name.endswith(".json") and (state := state_of(entry)):
                    files.add(f"{folder}{name}")
                    yield f"{folder}{name}", state
        if there := self.compacted():
            for name in there.names():
                if name not in files:
                    yield name, self.compacted_state(name)

    def state(self, name: str) -> FileState:
        """Returns what tells a record's present content from another, be it a file or compacted.

        Raises:
            UserError: the compacted records cannot be read.
        """
        return state_of(self.results / name) or self.compacted_state(name)

    def compacted_state(self, name: str) -> FileState:
        """Returns the state of a compacted record, ``None`` where there is none.

        Raises:
            UserError: the compacted records cannot be read.
        """
        there = self.compacted()
        known = there.known(name) if there else None
        return known and (0, known.size, known.modified)

    def content(self, name: str) -> bytes:
        """Returns a record's JSON; one after the other in their order is quickest.

        Raises:
            OSError: there is no such record, or it cannot be read.
            UserError: the compacted records cannot be read.
        """
        path = self.results / name
        with suppress(FileNotFoundError):
            return read_bounded(path, LARGEST)
        with suppress(KeyError):
            if there := self.compacted():
                return there.json(name)
        # Where it has been expanded since, it is a file now.
        return read_bounded(path, LARGEST)

    def record(self, name: str) -> RunRecord | Damaged:
        """Returns a record, or in a few words why it is none.

        Raises:
            UserError: the compacted records cannot be read.
        """
        try:
            return parse_record(self.content(name))
        except OSError as error:
            return Damaged(f"cannot be read: {error.strerror or error}")


def parse_record(content: bytes) -> RunRecord | Damaged:
    """Returns the record that a file's content is, or in a few words why it is none."""
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Damaged(f"is no record: {where + ': ' if where else ''}{first['msg']}")
    if record.schema_version > SCHEMA_VERSION:
        return Damaged(
            f"has schema version {record.schema_version}, this ulsad-bench reads up to {SCHEMA_VERSION}"
        )
    # It becomes a file's name.
    return record if _KEY.fullmatch(record.key) else Damaged("has a key that is none")


def read_records(results: Path) -> Loaded:
    """Reads every record below a folder; damaged files are named, never raised.

    Raises:
        UserError: there is no such folder, or one in it cannot be read.
    """
    folder = Folder(results)
    records, damaged = [], []
    for name in record_names(results):
        record = folder.record(name)
        if isinstance(record, Damaged):
            damaged.append((results / name, record.why))
        else:
            records.append(record)
    return Loaded(tuple(records), tuple(damaged))


def recent_records(folder: Folder, each: int = 50) -> list[RunRecord]:
    """Reads the records that were written last, so many of each method's name.

    Where there is no such folder there are none. Reading a hundred thousand takes a minute, and to predict
    costs the newest are enough.

    Raises:
        UserError: a folder in it cannot be read.
    """
    by_method: dict[str, list[tuple[int, str]]] = {}
    for name, state in folder.states():
        if state:
            by_method.setdefault(name.split("/")[2], []).append((state[2], name))
    chosen = [name for found in by_method.values() for _, name in nlargest(each, found)]
    read = (folder.record(name) for name in sorted(chosen, key=parts))
    return [record for record in read if isinstance(record, RunRecord)]


def order_of(record: RunRecord) -> int:
    """Returns the number of a record; of one from before there were numbers the milliseconds of its time."""
    if record.order or not record.finished:
        return record.order
    try:
        time = datetime.fromisoformat(record.finished)
    except ValueError:
        return 0
    return max(0, int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000))


def rank(record: RunRecord) -> tuple[int, int, str, str]:
    """Returns what decides which of several records of one run counts: that of the highest rank.

    The method's version comes first; of a private method the file counts, whatever version it says.
    """
    version = 0 if record.identity.source else record.identity.method_version
    return version, order_of(record), record.finished, record.key


def newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Returns for each run, whose method, data or weights may have changed, the record that counts."""
    found: dict[str, RunRecord] = {}
    for record in records:
        run = record.spec.model_dump_json()
        other = found.get(run)
        if other is None or rank(record) > rank(other):
            found[run] = record
    return sorted(found.values(), key=lambda record: rank(record)[1:])


def record_files(results: Path) -> list[Path]:
    """Returns the paths of all records, in order.

    Raises:
        UserError: there is no such folder, or one in it cannot be read.
    """
    return [results / name for name in record_names(results)]


def record_names(results: Path) -> list[str]:
    """Returns where all records lie within the folder, in order, with slashes; also those of compacted ones.

    Raises:
        UserError: there is no such folder, one in it cannot be read, or the compacted records cannot.
    """
    if not results.is_dir():
        raise UserError(f"There is no results folder {results}: run `bench run` first, or give --results.")
    folder = Folder(results)
    while True:
        before = folder.compacted()
        files = file_names(results)
        # Else records have moved from one to the other, and may have been in neither when it was listed.
        if folder.compacted() is before:
            break
    if before is None:
        return files
    names = before.names()
    return list(dict.fromkeys(merge(files, names, key=parts))) if files else names


def file_names(results: Path) -> list[str]:
    """Returns where the records lie that are files, in order, with slashes.

    Raises:
        UserError: a folder cannot be read.
    """
    return [
        f"{folder}{entry.name}"
        for folder in _folders(results)
        for entry in _inside(results, folder)
        if entry.name.endswith(".json")
    ]


def _folders(results: Path) -> list[str]:
    """The folders that records lie in, in order."""
    # Exactly this depth: a report or a copied folder inside the results is not taken for records.
    folders = [""]
    for _ in range(3):
        found = ((folder, entry) for folder in folders for entry in _inside(results, folder))
        folders = [f"{folder}{entry.name}/" for folder, entry in found if entry.is_dir()]
    return folders


def _inside(results: Path, folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, in order; nothing where it has just been removed."""
    # A hundred thousand paths take seconds by Path.glob.
    try:
        with os.scandir(results / folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        # Records that cannot be seen must not be taken for records that are not there.
        reason = error.strerror or error
        raise UserError(
            f"The folder {results / folder} cannot be read ({reason}): make it readable."
        ) from error


def prepare_folder(results: Path) -> None:
    """Makes sure that records can be written, and clears away what killed processes left half-written.

    Raises:
        UserError: the folder cannot be made or written.
    """
    probe = results / ".writable"
    try:
        write_atomically(probe, b"")
        probe.unlink(missing_ok=True)  # another driver on this folder may have removed it
    except OSError as error:
        raise cannot_write(results, error) from error
    for folder in {
        results,
        *(path.parent for path in results.glob("*/*/*.tmp")),
        *(path.parent for path in results.glob("*/*/*/*.tmp")),
    }:
        remove_leftovers(folder)


def cannot_write(results: Path, error: OSError) -> UserError:
    """Returns the sentence for a results folder that refuses a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk of the results folder {results} is full: free space, then run again.")
    reason = error.strerror or error
    return UserError(f"The results folder {results} cannot be written ({reason}): give another --results.")
