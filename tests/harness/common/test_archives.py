"""Archives that mean ill: each is refused in one sentence and leaves nothing."""

from __future__ import annotations

import errno
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.common import archives as module
from harness.common.archives import Limits, extract, is_archive
from harness.common.errors import UserError

LIMITS = Limits(files=20, bytes=100_000)
Entry = tuple[str, bytes, dict[str, object]]


def entry(name: str, content: bytes = b"", **fields: object) -> Entry:
    return name, content, fields


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return entry(name, type=kind, linkname=to)


def tar(path: Path, *entries: Entry, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *entries: Entry) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, fields in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if fields.get("type") == tarfile.SYMTYPE:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = str(fields["linkname"]).encode()
            elif fields.get("type") == tarfile.CHRTYPE:
                info.external_attr = (stat.S_IFCHR | 0o666) << 16
            archive.writestr(info, content)
    return path


GOOD = (
    entry("./top", type=tarfile.DIRTYPE),
    entry("top/a.txt", b"a"),
    entry("top/deep/b.txt", b"b" * 5000),
    link("top/c", "deep/b.txt"),
    link("top/folder", "../top/deep"),
)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_what_is_inside_comes_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    assert is_archive(path.name)
    if suffix == "zip":
        zipped(path, *GOOD[1:])
    else:
        tar(path, *GOOD, link("top/d", "top/a.txt", tarfile.LNKTYPE), mode=f"w:{suffix.partition('.')[2]}")
    told: list[int] = []
    extract(path, tmp_path / "out", LIMITS, told.append)
    top = tmp_path / "out" / "top"
    assert (top / "a.txt").read_bytes() == b"a"
    assert (top / "c").read_bytes() == (top / "folder" / "b.txt").read_bytes() == b"b" * 5000
    assert suffix == "zip" or (top / "d").read_bytes() == b"a"
    assert told[-1] == 5001
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", path.name]


EVIL = {
    "absolute": ((entry("/tmp/evil"),), "absolute"),  # noqa: S108
    "drive": ((entry("C:/evil"),), "absolute"),
    "backslash": ((entry("..\\evil"),), "absolute"),
    "up": ((entry("a/../../evil"),), "leads out"),
    "link up": ((link("a", "../evil"),), "leads out"),
    "link to root": ((link("a", "/etc/passwd"),), "leads out"),
    "link to nothing": ((link("a", "nothing"),), "leads out"),
    "chain of links": ((entry("d/x"), link("d/l", "."), link("b", "d/l/../../evil")), "leads out"),
    "later link": ((entry("d/x"), link("b", "d/l/../.."), link("d/l", ".")), "leads out"),
    "through a link": ((link("a", "/tmp"), entry("a/evil")), "goes through a link"),  # noqa: S108
    "over a link": ((link("a", "/tmp/evil"), entry("a", b"evil")), "comes twice"),  # noqa: S108
    "twice": ((entry("a", b"1"), entry("a", b"2")), "comes twice"),
    "device": ((entry("a", type=tarfile.CHRTYPE),), "device"),
    "many": (tuple(entry(f"{i}") for i in range(21)), "more than 20 files"),
    "large": ((entry("a", b"0" * 60_000), entry("b", b"0" * 60_000)), "more than 0.1 MB"),
}
ONLY_TAR = {
    "hard link up": ((link("a", "../evil", tarfile.LNKTYPE),), "leads out"),
    "hard link away": ((link("a", "/etc/passwd", tarfile.LNKTYPE),), "absolute"),
    "hard link to a link": ((link("a", "/etc/passwd"), link("b", "a", tarfile.LNKTYPE)), "no file of the"),
    "pipe": ((entry("a", type=tarfile.FIFOTYPE),), "device"),
    "long header": ((entry("a", pax_headers={"comment": "0" * (17 << 20)}),), "damaged"),
}
CASES: list[tuple[Callable[..., Path], tuple[Entry, ...], str]] = [
    *((tar, *case) for case in (EVIL | ONLY_TAR).values()),
    *((zipped, *case) for case in EVIL.values()),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("pack", "entries", "said"), CASES, ids=[*EVIL, *ONLY_TAR, *(f"zip {n}" for n in EVIL)]
)
def test_evil_archives_are_refused(
    tmp_path: Path, pack: Callable[..., Path], entries: tuple[Entry, ...], said: str
) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    archive = pack(tmp_path / "evil.archive", *entries)
    with pytest.raises(UserError, match=r"evil\.archive") as caught:
        extract(archive, place / "out", LIMITS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "evil.archive"]


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.zip", entry("a", b"0" * 10_000_000))
    content = path.read_bytes()
    assert len(content) < 20_000
    path.write_bytes(content.replace((10_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match=r"bomb\.zip"):
        extract(path, tmp_path / "out", LIMITS)
    assert [p.name for p in tmp_path.iterdir()] == ["bomb.zip"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("keep", [0, 4, 0.3, 0.6])
def test_damaged_archives(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"x.{suffix}"
    noise = bytes((i * i * 31 >> 3) % 251 for i in range(40_000))
    if suffix == "zip":
        zipped(path, entry("a", noise), entry("b", noise))
    else:
        tar(path, entry("a", noise), entry("b", noise), mode=f"w:{suffix.partition('.')[2]}")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(UserError, match="is damaged"):
        extract(path, tmp_path / "out", LIMITS)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_page_instead_of_an_archive_and_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("<html>Please log in</html>")
    with pytest.raises(UserError, match="damaged or of a kind"):
        extract(tmp_path / "x.zip", tmp_path / "out", LIMITS)
    good = tar(tmp_path / "good.tar", entry("a", b"a"))
    with pytest.raises(UserError, match="cannot be written"):
        extract(good, Path("/proc/nowhere/out"), LIMITS)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module._Unpacking, "_write", full)
    archive = tar(tmp_path / "x.tar", entry("deep/a", b"a"))
    with pytest.raises(UserError, match="is full"):
        extract(archive, tmp_path / "out", LIMITS)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]
