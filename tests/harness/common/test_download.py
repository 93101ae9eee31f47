"""Downloads from a server that misbehaves: each case is one sentence, and nothing half-written stays."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.common import download as module
from harness.common.download import Remote, download
from harness.common.errors import UserError
from harness.common.files import temporary_name

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def remote(server: Any) -> Remote:
    server.files["file.zip"] = CONTENT
    return Remote(f"{server.url}/file.zip", SHA256)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failure(remote: Remote, target: Path) -> str:
    with pytest.raises(UserError) as caught:
        download(remote, target)
    sentence = str(caught.value)
    assert remote.url in sentence, "the address"
    assert str(target) in sentence, "where a file may be put by hand"
    assert "\n" not in sentence
    assert not target.exists()
    return sentence


def test_a_file_comes_whole_with_progress_and_is_not_fetched_twice(
    remote: Remote, server: Any, tmp_path: Path
) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "file.zip"
    assert download(remote, target, lambda done, of: told.append((done, of))) == SHA256
    assert target.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert download(remote, target) == SHA256
    assert len(server.ranges) == 1
    assert names(target.parent) == ["file.zip"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("404", "does not have the file"),
        ("403", "refuses the file"),
        ("429", "too many requests (429): try"),
        ("429:120", "asks to wait 120 seconds"),
        ("503", "answered 503"),
        ("long", "longer than the server told"),
        ("wrong", "another SHA-256 sum"),
    ],
)
def test_what_leaves_nothing(remote: Remote, server: Any, tmp_path: Path, fault: str, said: str) -> None:
    server.fault = fault
    assert said in failure(remote, tmp_path / "file.zip")
    assert names(tmp_path) == []


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_broken_off_download_goes_on_where_it_was(
    remote: Remote, server: Any, tmp_path: Path, fault: str
) -> None:
    server.fault = fault
    assert "broken off after" in failure(remote, tmp_path / "file.zip")
    if fault == "cut":  # a torn connection may lose what was on its way
        assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[: len(CONTENT) // 2]
        assert names(tmp_path) == ["file.zip.part"]
    server.fault = ""
    assert download(remote, tmp_path / "file.zip") == SHA256
    assert fault != "cut" or server.ranges == ["", f"bytes={len(CONTENT) // 2}-"]
    assert names(tmp_path) == ["file.zip"]


def test_a_part_survives_a_refusal(remote: Remote, server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    server.fault = "429"
    failure(remote, tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("part", [CONTENT[:1000], CONTENT, CONTENT + b"more"])
@pytest.mark.parametrize("fault", ["", "ignore-range", "silent-length"])
def test_every_length_of_part_ends_in_the_right_file(
    remote: Remote, server: Any, tmp_path: Path, fault: str, part: bytes
) -> None:
    (tmp_path / "file.zip.part").write_bytes(part)
    server.fault = fault
    assert download(remote, tmp_path / "file.zip") == SHA256
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.zip"]


def test_a_part_of_another_file_and_another_range_are_removed(
    remote: Remote, server: Any, tmp_path: Path
) -> None:
    (tmp_path / "file.zip.part").write_bytes(b"x" * 1000)
    assert "another SHA-256 sum" in failure(remote, tmp_path / "file.zip")
    assert names(tmp_path) == []
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    server.fault = "other-range"
    assert "another range" in failure(remote, tmp_path / "file.zip")
    assert names(tmp_path) == []


def test_without_a_checksum_no_part_is_kept_or_used(remote: Remote, server: Any, tmp_path: Path) -> None:
    bare = Remote(remote.url)
    (tmp_path / "file.zip.part").write_bytes(b"x")
    server.fault = "cut"
    failure(bare, tmp_path / "file.zip")
    server.fault = ""
    assert download(bare, tmp_path / "file.zip") == SHA256
    assert server.ranges == ["", ""]


def test_no_server_and_no_address(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be reached" in failure(Remote("http://127.0.0.1:9/x", SHA256), tmp_path / "x")
    assert "is no http" in failure(Remote("file:///etc/passwd"), tmp_path / "x")
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    assert "no address for no.invalid" in failure(Remote("http://no.invalid/x", SHA256), tmp_path / "x")


def test_too_long_for_the_caller(remote: Remote, server: Any, tmp_path: Path) -> None:
    for server.fault in ("", "silent-length"):
        assert "than the 1.0 kB it may be" in failure(Remote(remote.url, SHA256, 1000), tmp_path / "f")
        assert names(tmp_path) == []


def test_a_full_disk(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert "only 1.0 kB are free" in failure(remote, tmp_path / "file.zip")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module._Transfer, "_copy", full)
    assert "is full" in failure(remote, tmp_path / "file.zip")
    assert names(tmp_path) == []


def test_a_wrong_file_put_by_hand_is_said_and_left(remote: Remote, tmp_path: Path) -> None:
    target = tmp_path / "file.zip"
    target.write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file of"):
        download(remote, target)
    assert target.read_bytes() == b"other"


def test_what_a_killed_process_left_is_taken_over(remote: Remote, server: Any, tmp_path: Path) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    name = temporary_name("file.zip").replace(f".{os.getpid()}@", f".{done.pid}@")
    (tmp_path / name).write_bytes(CONTENT[:3000])
    assert download(remote, tmp_path / "file.zip") == SHA256
    assert server.ranges == ["bytes=3000-"]
    assert names(tmp_path) == ["file.zip"]


def test_several_at_once(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(download(remote, tmp_path / "file.zip")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 6
    assert names(tmp_path) == ["file.zip"]


def test_a_file_that_another_process_took_away_is_fetched(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, exists = tmp_path / "file.zip", Path.exists
    # It was there a moment ago.
    monkeypatch.setattr(Path, "exists", lambda path: path == target or exists(path))
    assert download(remote, target) == SHA256
    assert target.read_bytes() == CONTENT
