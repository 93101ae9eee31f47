"""What several tests make: a dataset of one's own with its card, a quick method, and `bench` on them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from harness.cli.main import main
from harness.results.sequence import LAST
from harness.spec.record import RunRecord

# What a test adds follows its ``[layout]``.
CARD = """
schema = 1
title = "Own"
licence = "CC0"
homepage = "https://example.org"
folders = ["own"]
[layout]
train = ["{category}/train/good/*"]
test = ["{category}/test/*/*"]
"""
MASKS = 'masks = ["{category}/ground_truth/{defect}/{stem}.png"]\n'
MINE = '''
"""Distance to the mean training image."""
import os
import time

import torch
from pydantic import Field

from harness import Citation, Epoch, Hyperparameters, Method, Prediction


class Mine(Method):
    version = 1
    citation = Citation(title="Mine", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        epochs: int = Field(3, ge=1)
        wait: float = Field(0.0, ge=0)
        fault: str = ""

    def fit(self, data, on_epoch):
        with open("diary", "a+") as diary:
            first = not diary.tell()
            diary.write(f"{os.getpid()} {self.setup.seed}\\n")
        self.mean = torch.zeros(3, self.setup.image_size, self.setup.image_size)
        for number in data.epochs(self.config.epochs, {"mean": self}):
            time.sleep(self.config.wait)
            if self.config.fault == "raise":
                raise RuntimeError("planted")
            if self.config.fault == "die":
                os.kill(os.getpid(), 9)
            if self.config.fault == "memory" or (self.config.fault == "memory once" and first):
                raise MemoryError("planted")
            self.mean += torch.cat(list(data.train.batches(8))).float().mean(dim=0) + torch.rand(1)
            on_epoch(Epoch(number, self.config.epochs, {"l": 1 / number}))

    def predict(self, images):
        maps = (images - self.mean / self.config.epochs).abs().mean(dim=1)
        if self.config.fault == "nan":
            maps[0, 0, 0] = float("nan")
        if self.config.fault == "shape":
            maps = maps[:, :-1]
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]
'''

# Takes the words of a command, and options of Popen.
Spawn = Callable[..., "subprocess.Popen[str]"]

RUN = ("run", "--methods", "mine.py:Mine", "--datasets", "own.toml", "--image-size", "32", "--device", "cpu")


def make_place(tmp_path: Path) -> Path:
    """A folder with a dataset of one's own, its card, and a method of one's own."""
    rng = np.random.default_rng(0)
    for category in ("a", "b"):
        for part, count in (("train/good", 10), ("test/good", 4), ("test/bad", 4)):
            _images(tmp_path / "data" / "own" / category, part, range(count), rng)
    (tmp_path / "own.toml").write_text(CARD + MASKS)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def _images(category: Path, part: str, numbers: Iterable[int], rng: np.random.Generator) -> None:
    folder = category / part
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        pixels = rng.integers(90, 110, (40, 40, 3), dtype=np.uint8)
        if part == "test/bad":
            pixels[10:20, 10:20] = 255
            mask = np.zeros((40, 40), np.uint8)
            mask[10:20, 10:20] = 255
            path = category / "ground_truth" / "bad" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def fill(place: Path, category: str = "a") -> None:
    """Gives a category 18 normal and 16 anomalous test images: the last two fill no batch of 32."""
    rng = np.random.default_rng(1)
    for part, count in (("test/good", 18), ("test/bad", 16)):
        _images(place / "data" / "own" / category, part, range(4, count), rng)


def hexadecimal(text: str) -> str:
    """A key of the right form for a record whose key nobody computes."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "harness.cli", *words]


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"BENCH_CACHE": str(place / "cache"), "BENCH_DATA": str(place / "data")}


# One small category, and all that a trained run can leave behind but parts.
TRAINED: tuple[object, ...] = (
    *("--datasets", "own.toml", "--categories", "a", "--device", "cpu", "--measure", 0),
    *("--keep", "weights,maps", "--no-report", "--image-size", 64),
)


def bench(*words: object) -> Result:
    """``bench`` in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


@contextmanager
def inside(place: Path) -> Iterator[None]:
    """In the folder of :func:`make_place`, with its data and its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(place / "cache"))
        patch.setenv("BENCH_DATA", str(place / "data"))
        patch.chdir(place)
        yield


def records(place: Path) -> dict[str, RunRecord]:
    paths = sorted((place / "results").glob("*/*/*/*.json"))
    return {str(path.relative_to(place)): RunRecord.model_validate_json(path.read_text()) for path in paths}


# What differs from run to run.
OWN = (
    "timings",
    "peak_memory",
    "efficiency",
    "finished",
    "environment",
    "resumed",
    "checksum",
    "command",
    "order",
)


def files_in(folder: Path) -> list[Path]:
    """All files of a results folder but the number of its last record, which is the folder's own."""
    return [path for path in folder.rglob("*") if path.is_file() and path != folder / LAST]


def undisturbed(path: Path) -> dict[str, Any]:
    """A record without what differs from run to run."""
    record: dict[str, Any] = json.loads(path.read_text())
    return {k: v for k, v in record.items() if k not in OWN}


@contextmanager
def spawning(place: Path, surroundings: dict[str, str]) -> Iterator[Spawn]:
    """Gives what starts `bench` in a place and lets it run; what still runs at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def call(*words: str, **given: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command(*words), cwd=place, env=surroundings, stdout=pipe, stderr=pipe, text=True, **given
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
