"""SHA-256 of files, computed once for each content, and what identifies a category's files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.common.files import SETTLED_NS

if TYPE_CHECKING:
    from harness.data.samples import CategoryData
from harness.common.parallel import R, in_threads

_HASHES = "hashes.sqlite"
_Key = tuple[str, int, int]


def content_hashes(paths: Sequence[Path], cache: Path) -> list[str]:
    """Returns the SHA-256 of each file, remembered in the cache by path, size and time of change.

    A file that cannot be read is a :class:`UserError`.
    """
    keys = [_stat(path) for path in paths]
    known = _with_memo(cache, lambda db: _recall(db, keys)) or {}
    fresh = sorted({key for key in keys if key not in known})
    hashed = dict(zip(fresh, in_threads(_sha256, [key[0] for key in fresh]), strict=True))
    before = time.time_ns() - SETTLED_NS
    settled = [(*key, value) for key, value in hashed.items() if key[2] < before]
    if settled:
        _with_memo(
            cache, lambda db: db.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", settled)
        )
    known.update(hashed)
    return [known[key] for key in keys]


def _stat(path: Path) -> _Key:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _recall(db: sqlite3.Connection, keys: Iterable[_Key]) -> dict[_Key, str]:
    query = "SELECT sha256 FROM hashes WHERE path = ? AND size = ? AND mtime_ns = ?"
    rows = ((key, db.execute(query, key).fetchone()) for key in keys)
    return {key: str(row[0]) for key, row in rows if row}


def _with_memo(cache: Path, work: Callable[[sqlite3.Connection], R]) -> R | None:
    """Runs work in one transaction on the memo; without a usable memo files are merely hashed again."""
    path = cache / _HASHES
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS hashes (path PRIMARY KEY, size, mtime_ns, sha256)")
            return work(db)
    except sqlite3.OperationalError as error:
        warnings.warn(f"{path} cannot be used ({error}); files are hashed again.", stacklevel=3)
    except sqlite3.DatabaseError as error:
        warnings.warn(f"{path} is damaged ({error}); it is made anew.", stacklevel=3)
        path.unlink(missing_ok=True)
    return None


def data_fingerprint(data: CategoryData, cache: Path) -> str:
    """Returns a short SHA-256 over content and role of every file of a category; names do not count."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    files = [path for part in parts.values() for sample in part for path in (sample.image, *sample.masks)]
    hashes = iter(content_hashes(files, cache))
    roles = [
        [role, sample.kind, next(hashes), [next(hashes) for _ in sample.masks]]
        for role, part in parts.items()
        for sample in part
    ]
    return hashlib.sha256(json.dumps(roles).encode()).hexdigest()[:16]
