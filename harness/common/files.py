"""Files that are there whole or not at all, and no traces of processes that died."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import platformdirs

# A file changed again within one tick of the file system's clock keeps size and time: what is known of so
# fresh a file is not remembered.
SETTLED_NS = 2_000_000_000

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.(?P<pid>\d+)@(?P<host>.+)\.tmp$")


def cache_dir() -> Path:
    """Returns the cache folder: ``BENCH_CACHE``, else the platform's place for caches."""
    chosen = os.environ.get("BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("ulsad-bench"))


def write_atomically(path: Path, content: bytes, settle: bool = True) -> None:
    """Writes a file so that readers, and a crash at any moment, see the old content or the new.

    Args:
        path: its folder is made.
        content: the whole file.
        settle: whether to wait for the disk. Where many files are written, it is quicker to do so once,
            afterwards: until then a crash of the machine may lose them.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / temporary_name(path.name)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if settle:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_bounded(path: Path, limit: int) -> bytes:
    """Reads a file that may come from anybody: one that is larger than ``limit`` bytes is not read.

    Raises:
        OSError: it cannot be read, or is too large.
    """
    # A named pipe would be waited for, were it not for O_NONBLOCK.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 1e6:.0f} MB")
    return content


def copy_atomically(source: Path, target: Path) -> None:
    """Copies a file that is there whole or not at all; what stood there before is replaced.

    Raises:
        OSError: the one cannot be read, or the other not written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / temporary_name(target.name)
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def is_plain_file(path: Path) -> bool:
    """Whether there is a file, and no link that shows another's content as one's own."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def temporary_name(stem: str) -> str:
    """Returns a name for a file or folder under construction that tells which process works on it."""
    return f"{stem}.{uuid.uuid4().hex[:8]}.{os.getpid()}@{socket.gethostname()}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Removes what processes of this machine that no longer run left under construction."""
    for path in folder.glob("*.tmp"):
        if _orphan(path):
            remove(path)


def claim_leftover(part: Path, own: Path) -> bool:
    """Renames what an earlier download of a file left to ``own``; of several processes only one gets it.

    Args:
        part: where a download that was broken off leaves its bytes.
        own: a :func:`temporary_name` for the same file.
    """
    killed = [path for path in part.parent.glob(f"{glob.escape(part.stem)}.*.tmp") if _orphan(path)]
    for path in (part, *killed):
        with contextlib.suppress(OSError):
            path.rename(own)
            return True
    return False


@contextlib.contextmanager
def folder_in_the_making(target: Path) -> Iterator[Path]:
    """Gives an empty folder, which gets its name when the block ends well and vanishes when it does not.

    Where another process has made ``target`` meanwhile, that one stays.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    temporary = target.parent / temporary_name(target.name)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        remove(temporary)


def _orphan(path: Path) -> bool:
    named = _TEMPORARY.search(path.name)
    return bool(named and named["host"] == socket.gethostname() and not _runs(int(named["pid"])))


def _runs(pid: int) -> bool:
    # On Windows os.kill would end the process instead of asking.
    with contextlib.suppress(PermissionError):
        try:
            if os.name != "nt":
                os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def remove(path: Path) -> None:
    """Removes a file or a folder with all that it holds; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
