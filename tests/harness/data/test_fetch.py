"""`bench data fetch`: licence, download, unpacking, and the layout that a card expects."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from harness.cli.main import main
from harness.data.card import card_names, load_card
from harness.data.samples import read_category

CARD = """
schema = 1
title = "Own"
licence = "CC BY 4.0"
homepage = "https://example.org"
folders = ["own", "Own-Dataset"]
note = "By hand: unpack it into <data root>/own."
{archives}
[layout]
train = ["{{category}}/train/good/*"]
test = ["{{category}}/test/*/*"]
masks = ["{{category}}/ground_truth/{{defect}}/{{stem}}.png"]
"""
IMAGES = ("a/train/good/0.png", "a/test/good/0.png", "a/test/bad/0.png", "a/ground_truth/bad/0.png")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def packed(names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, picture() if name.endswith(".png") else b"text")
    return buffer.getvalue()


@pytest.fixture
def card(server: Any, tmp_path: Path) -> Callable[..., str]:
    """Writes a card for an archive on the server; returns its path."""

    def write(content: bytes, sha256: str = "", max_files: int = 100, max_bytes: int = 100_000) -> str:
        server.files["own.zip"] = content
        sha256 = sha256 or hashlib.sha256(content).hexdigest()
        archives = f'[[archives]]\nurl = "{server.url}/own.zip"\nsha256 = "{sha256}"\n'
        archives += f"max_files = {max_files}\nmax_bytes = {max_bytes}\n"
        (tmp_path / "own.toml").write_text(CARD.format(archives=archives))
        return str(tmp_path / "own.toml")

    return write


def fetch(card: str, *words: str, root: str = "data") -> Result:
    data = str(Path(card).parent / root)
    return CliRunner().invoke(main, ["data", "fetch", card, "--data-root", data, *words])


def left(place: Path) -> list[str]:
    return sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())


@pytest.mark.parametrize("top", ["", "Own_Dataset_transformed/", "outer/inner/"])
def test_a_dataset_comes_in_the_layout_of_its_card(
    card: Callable[..., str], tmp_path: Path, server: Any, top: str
) -> None:
    path = card(packed((*(top + name for name in IMAGES), "licence.txt")))
    done = fetch(path, "--accept-licence")
    assert done.exit_code == 0, done.output
    assert "CC BY 4.0" in done.output
    assert "https://example.org" in done.output
    assert left(tmp_path / "data") == sorted(["own/licence.txt", *(f"own/{name}" for name in IMAGES)])
    data = read_category(load_card(path), "a", tmp_path / "data")
    assert (len(data.train), len(data.test), len(data.test[0].masks)) == (1, 2, 1)
    assert "is there already" in fetch(path).output
    assert len(server.ranges) == 1


def test_the_licence_must_be_accepted(card: Callable[..., str], tmp_path: Path, server: Any) -> None:
    done = fetch(card(packed(IMAGES)))
    assert done.exit_code == 2
    assert "--accept-licence" in done.stderr
    assert not server.ranges
    assert not (tmp_path / "data").exists()


def test_an_archive_put_by_hand_is_used_and_kept(
    card: Callable[..., str], tmp_path: Path, server: Any
) -> None:
    path = card(packed(IMAGES))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.zip").write_bytes(packed(IMAGES))
    server.fault = "404"
    assert fetch(path, "--accept-licence").exit_code == 0
    assert "own.zip" in left(tmp_path / "data")


@pytest.mark.parametrize(
    ("fault", "said", "stays"),
    [
        ("404", "does not have the file", []),
        ("403", "refuses the file", []),
        ("429:7", "asks to wait 7 seconds", []),
        ("long", "longer than the server told", []),
        ("wrong", "another SHA-256 sum", []),
        ("cut", "goes on from there", ["own.zip.part"]),
    ],
)
def test_a_server_that_misbehaves(
    card: Callable[..., str], tmp_path: Path, server: Any, fault: str, said: str, stays: list[str]
) -> None:
    path = card(packed(IMAGES))
    server.fault = fault
    done = fetch(path, "--accept-licence")
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.url in done.stderr
    assert str(tmp_path / "data" / "own.zip") in done.stderr
    assert left(tmp_path / "data") == stays
    server.fault = ""
    assert fetch(path, "--accept-licence").exit_code == 0
    assert left(tmp_path / "data") == sorted(f"own/{name}" for name in IMAGES)


def evil_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, to in (("a/train/good/0.png", "../../../../../etc/passwd"),):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "limits", "said"),
    [
        (packed((*IMAGES, "../evil")), {}, "leads out of the folder"),
        (evil_tar(), {}, "leads out of the folder"),
        (packed(IMAGES), {"max_files": 3}, "more than 3 files"),
        (packed(IMAGES), {"max_bytes": 50}, "it may be"),
        (packed(("readme.txt", "pictures/1.png")), {}, "it holds pictures, readme.txt"),
        (b"<html>Please log in</html>", {}, "is damaged or of a kind"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be(
    card: Callable[..., str], tmp_path: Path, content: bytes, limits: dict[str, int], said: str
) -> None:
    done = fetch(card(content, **limits), "--accept-licence")
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert left(tmp_path / "data") in ([], ["own.zip"])
    assert not (tmp_path / "data" / "own").exists()
    assert left(tmp_path)[-1].startswith("own.toml")


def test_what_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    words = ["data", "fetch", "mpdd", "--accept-licence", "--data-root", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert f"unpack the category folders into {tmp_path}/mpdd" in done.stderr
    assert "Nothing to fetch" in CliRunner().invoke(main, ["data", "fetch", "demo"]).output


@pytest.mark.parametrize("name", card_names())
def test_built_in_cards_say_how_to_get_the_data(name: str) -> None:
    card = load_card(name)
    assert card.note
    assert bool(card.archives) == (name not in ("demo", "mpdd"))
    for archive in card.archives:
        assert archive.url.startswith("https://")
        images = sum((c.train or 0) + c.validation + sum((c.test or {}).values()) for c in card.categories)
        assert archive.max_files > 1.5 * images


def test_several_processes_at_once(card: Callable[..., str], tmp_path: Path) -> None:
    path = card(packed(IMAGES))
    words = [sys.executable, "-m", "harness.cli", "data", "fetch", path, "--accept-licence"]
    words += ["--data-root", str(tmp_path / "data")]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert left(tmp_path / "data") == sorted(f"own/{name}" for name in IMAGES)


def test_on_a_terminal_the_licence_is_asked_for(card: Callable[..., str], tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    path = card(packed(IMAGES))
    words = [
        sys.executable,
        "-m",
        "harness.cli",
        "data",
        "fetch",
        path,
        "--data-root",
        str(tmp_path / "data"),
    ]
    for answer, code in (("n", 2), ("y", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == code, err
        assert "Do you accept the licence?" in out
        assert (tmp_path / "data" / "own").is_dir() == (answer == "y")
