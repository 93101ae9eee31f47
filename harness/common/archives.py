"""Archives (zip, and tar plain or packed by gzip, xz or bzip2) unpacked without trusting them.

Nothing is written through a link, every link must end inside the folder, and only files, folders and links
are taken. Whatever is refused leaves nothing behind.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from harness.common.errors import UserError
from harness.common.files import folder_in_the_making

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")

# Told how many bytes have been unpacked.
UnpackProgress = Callable[[int], None]

_CHUNK = 1 << 20
# tarfile reads the headers of long names whole, so that an archive could ask for any amount of memory.
_HEADER = 16 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    UnicodeError,
    RuntimeError,  # an encrypted zip
)
_OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"BZh", bz2.open),
)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most, unpacked; a bomb holds more."""

    files: int
    bytes: int


@dataclass(frozen=True)
class _Member:
    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    open: Callable[[], IO[bytes]]
    size: int
    link: str = ""


def is_archive(name: str) -> bool:
    """Whether a file of this name is one that :func:`extract` unpacks."""
    return name.lower().endswith(_SUFFIXES)


def extract(archive: Path, target: Path, limits: Limits, progress: UnpackProgress | None = None) -> None:
    """Unpacks an archive into a folder that appears complete or not at all.

    Raises:
        UserError: the archive is damaged, dangerous or larger than the limits, or the disk is full.
    """
    with writing_to(target.parent), folder_in_the_making(target) as folder:
        unpack(archive, folder, limits, progress)


def unpack(archive: Path, folder: Path, limits: Limits, progress: UnpackProgress | None = None) -> None:
    """Unpacks an archive into an empty folder; on an error the folder holds what came before it.

    Raises:
        UserError: as for :func:`extract`.
    """
    work = _Unpacking(archive, folder.resolve(), limits, progress or (lambda _: None))
    try:
        with _members(archive) as members:
            for member in members:
                work.take(member)
        check_links(archive, folder, work.links)
    except _DAMAGE as error:
        raise UserError(
            f"The archive {archive} is damaged or of a kind that cannot be unpacked "
            f"({str(error).rstrip('.') or type(error).__name__}): remove it and fetch it again."
        ) from error


def check_links(archive: Path, folder: Path, links: Iterable[Path]) -> None:
    """Makes sure that no link, by whatever chain, ends outside a folder: asked of the file system itself.

    Raises:
        UserError: a link leads out, or to nothing.
    """
    folder = folder.resolve()
    for link in links:
        end = Path(os.path.realpath(link))
        if not end.is_relative_to(folder) or not end.exists():
            raise _refusal(archive, f"{link.name!r} in it is a link that leads out of the folder")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns what a file system refuses into one sentence that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"The disk of {folder} is full: free space, then run again.") from error
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be written ({reason}): choose another folder.") from error


class _Unpacking:
    def __init__(self, archive: Path, folder: Path, limits: Limits, progress: UnpackProgress) -> None:
        self.archive, self.folder, self.limits, self.progress = archive, folder, limits, progress
        self.files = self.bytes = 0
        self.links: list[Path] = []

    def take(self, member: _Member) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise self._bomb(f"more than {self.limits.files} files")
        if self.bytes + member.size > self.limits.bytes:
            raise self._bomb(f"more than {self.limits.bytes / 1e6:.1f} MB")
        path = self._place(member.name)
        if path == self.folder:
            return
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise self._refused(member.name, "comes twice")
        if member.kind == "file":
            self._write(member, path)
        elif member.kind == "symlink":
            path.symlink_to(member.link)
            self.links.append(path)
        elif member.kind == "hardlink":
            self._hard_link(member, path)
        else:
            raise self._refused(member.name, "is a device or another special file")

    def _place(self, name: str) -> Path:
        """Returns where a member belongs; no part of its way may lead elsewhere."""
        parts = PurePosixPath(name).parts
        if name.startswith("/") or PureWindowsPath(name).drive or "\\" in name or "\0" in name:
            raise self._refused(name, "is an absolute path, or none of this system")
        if ".." in parts:
            raise self._refused(name, "leads out of the folder")
        path = self.folder.joinpath(*parts)
        if path != self.folder and Path(os.path.realpath(path.parent)) != path.parent:
            raise self._refused(name, "goes through a link")
        return path

    def _write(self, member: _Member, path: Path) -> None:
        # Sizes in headers may lie, so that bytes are counted as they come.
        begin = self.bytes
        with member.open() as source, path.open("xb") as file:
            while chunk := source.read(_CHUNK):
                self.bytes += len(chunk)
                if self.bytes > self.limits.bytes:
                    raise self._bomb(f"more than {self.limits.bytes / 1e6:.1f} MB")
                file.write(chunk)
                self.progress(self.bytes)
        if self.bytes - begin != member.size:
            raise EOFError(f"{member.name} is cut off")

    def _hard_link(self, member: _Member, path: Path) -> None:
        source = self._place(member.link)
        if source.is_symlink() or not source.is_file():
            raise self._refused(member.name, "is a link to no file of the archive")
        path.hardlink_to(source)

    def _refused(self, name: str, why: str) -> UserError:
        return _refusal(self.archive, f"{name!r} in it {why}")

    def _bomb(self, what: str) -> UserError:
        return _refusal(self.archive, f"it holds {what}, the most that it should")


def _refusal(archive: Path, why: str) -> UserError:
    return UserError(f"The archive {archive} is refused, because {why}: get it from its owner anew.")


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if _start(archive).startswith(b"PK"):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened)
    else:
        with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield _tar_members(tar)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        opened = _zip_opener(archive, info)
        if info.is_dir():
            yield _Member(info.filename, "folder", opened, 0)
        elif mode == stat.S_IFLNK:
            with opened() as file:
                link = file.read(4096).decode()
            yield _Member(info.filename, "symlink", opened, 0, link)
        elif mode in (0, stat.S_IFREG):
            yield _Member(info.filename, "file", opened, info.file_size)
        else:
            yield _Member(info.filename, "other", opened, 0)


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        kind: Literal["file", "folder", "symlink", "hardlink", "other"] = "other"
        for name, fits in (
            ("folder", info.isdir()),
            ("symlink", info.issym()),
            ("hardlink", info.islnk()),
            ("file", info.isreg()),
        ):
            if fits:
                kind = name  # type: ignore[assignment]
                break
        size = info.size if kind == "file" else 0
        yield _Member(info.name, kind, _tar_opener(archive, info), size, info.linkname)


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.extractfile(info) or io.BytesIO()


class _Careful:
    """A stream that refuses to read much at once."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError("a header is too long")
        content: bytes = self._stream.read(size)
        return content


@contextmanager
def _decompressed(archive: Path) -> Iterator[Any]:
    start = _start(archive)
    opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), open)
    with opener(archive, "rb") as stream:
        yield _Careful(stream)


def _start(archive: Path) -> bytes:
    with archive.open("rb") as file:
        return file.read(6)
