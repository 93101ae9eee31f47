"""The process of the contract test that runs a method: builds, fits and predicts under watch.

What it finds is written as lines of JSON at once: a crash or a hang ends this process only, and the last
line tells the driver in which step.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from harness.checks.contract.data import synthetic
from harness.checks.contract.state import FileWatch, WatchedState, process_state
from harness.common.errors import UserError
from harness.execution.devices import seed_everything
from harness.method import Epoch, Images, Method, Prediction, TrainingData
from harness.registry.methods import configure, load_method
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import Weights

TOLERANCE = 1e-5
# Where libraries put caches and probes; the driver looks at what stays in the temporary folder.
LIBRARIES = tuple(Path(os.environ[name]) for name in ("MPLCONFIGDIR", "TMPDIR") if name in os.environ)
TRAIN, VALIDATION, TEST = 8, 4, 5


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        folder: the worker's own folder, for what must outlive it.
        steps: names of the steps, see :mod:`harness.checks.contract.steps`.
        method: base of the method's name.
        label: the name for people.
        odd_size: side for the step with another image size.
    """

    folder: Path
    steps: tuple[str, ...]
    method: str
    label: str
    config: Mapping[str, Any]
    weights: Mapping[str, Weights]
    assets: Mapping[str, Path]
    image_size: int
    odd_size: int
    device: str

    @staticmethod
    def read(path: Path) -> Job:
        """Reads what :func:`harness.checks.contract.checks.write_job` wrote."""
        given = json.loads(path.read_text(encoding="utf-8"))
        weights = {
            name: Weights(w["backbone"], w["sha256"], Path(w["path"]) if w["path"] else None, w["by_order"])
            for name, w in given.pop("weights").items()
        }
        assets = {name: Path(folder) for name, folder in given.pop("assets").items()}
        folder, steps = Path(given.pop("folder")), tuple(given.pop("steps"))
        return Job(folder=folder, steps=steps, weights=weights, assets=assets, **given)


class Worker:
    """Runs the steps of a job; what it finds goes to ``findings.jsonl`` at once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = torch.device(job.device)
        self.before = WatchedState({})
        self.scratch = job.folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.watch = FileWatch(job.folder, *LIBRARIES)
        self._out = (job.folder / "findings.jsonl").open("a", encoding="utf-8")

    def say(self, check: str, breach: str = "", note: str = "", skipped: str = "") -> None:
        """Writes one finding: a breach, or that the check passed (with a note) or could not be made."""
        self._line({"check": check, "breach": breach, "note": note, "skipped": skipped})

    def _line(self, values: Mapping[str, str]) -> None:
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()

    def run(self, steps: Mapping[str, Callable[[Worker], None]]) -> None:
        """Runs every step of the job; an exception ends its step only."""
        before = None
        for step in self.job.steps:
            self._line({"begin": step})
            try:
                # What importing a library changes is its own affair; methods import when they are built.
                self.before = before = before or self._imported_state()
                steps[step](self)
            except Exception as error:
                kind = "skipped" if isinstance(error, NotRunError) else "failed"
                self._line({kind: step, "sentence": say_all(error)})
            self._line({"end": step})
            for path in self.watch.take():
                self.say("files", f"In step '{step}' the method wrote {path}; only Setup.scratch is its own.")

    def _imported_state(self) -> WatchedState:
        self.build()
        seed_everything(0)
        return process_state()

    # Building and running the method

    def build(self, seed: int = 0, size: int | None = None) -> Method:
        """Returns the method as the harness makes it, seeded."""
        job = self.job
        seed_everything(seed)
        method = load_method(job.method)
        setup = make_setup(
            job.weights, job.assets, Surroundings(self.device, size or job.image_size, seed, self.scratch)
        )
        return method(configure(method, job.label, job.config), setup)

    def fit(
        self,
        method: Method,
        train: NDArray[np.uint8],
        validation: NDArray[np.uint8],
        seed: int = 0,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
    ) -> None:
        """Fits under watch: data files may not be opened."""
        with self.watch.fitting():
            method.fit(TrainingData(Images(train), Images(validation), seed), on_epoch)

    def fitted(
        self, seed: int = 0, size: int | None = None, on_epoch: Callable[[Epoch], None] = lambda _: None
    ) -> Method:
        """Returns the method, fitted on synthetic images."""
        side = size or self.job.image_size
        method = self.build(seed, side)
        self.fit(method, synthetic(TRAIN, side, 0), synthetic(VALIDATION, side, 1), seed, on_epoch)
        return method

    def predict(self, method: Method, images: Tensor) -> Prediction:
        """Predicts as the harness does, with float32 results on the CPU."""
        with torch.no_grad():
            found = method.predict(images)
        return Prediction(found.score.detach().float().cpu(), found.map.detach().float().cpu())

    def test_images(self, size: int | None = None) -> Tensor:
        """Returns the test images, uint8 ``[B, 3, S, S]``."""
        array = synthetic(TEST, size or self.job.image_size, 2, defects=True)
        return Images(array).batch(range(TEST))

    def result(self) -> Prediction:
        """Returns what step ``fit`` predicted.

        Raises:
            NotRunError: that step came to no result.
        """
        path = self.job.folder / "scores.safetensors"
        if not path.exists():
            raise NotRunError("the first fit gave no result to compare with")
        tensors = load_file(path)
        return Prediction(tensors["score"], tensors["map"])


class NotRunError(Exception):
    """A step that depends on an earlier one that failed."""


def difference(a: Prediction, b: Prediction, tolerance: float = TOLERANCE) -> str:
    """Says where two predictions differ by more than ``tolerance`` of the largest value, else nothing."""
    for part in ("score", "map"):
        x, y = getattr(a, part), getattr(b, part)
        gap = float((x - y).abs().max())
        scale = float(x.abs().max())
        if not gap <= tolerance * scale:
            return f"{part}s of up to {scale:.4g} differ by {gap:.2g}"
    return ""


def own_sentence(error: Exception) -> bool:
    """Whether the method itself refuses, in one line, rather than a library deep below it."""
    trace = traceback.extract_tb(error.__traceback__)
    own = bool(trace) and not {"site-packages", "dist-packages"} & set(Path(trace[-1].filename).parts)
    text = str(error).strip()
    return own and isinstance(error, (UserError, ValueError)) and len(text.split()) > 2 and "\n" not in text


def say_all(error: BaseException) -> str:
    """Returns one sentence: what was raised, and where."""
    if isinstance(error, (UserError, NotRunError)):
        return str(error)
    trace = traceback.extract_tb(error.__traceback__)
    own = [f for f in trace if not {"site-packages", "dist-packages"} & set(Path(f.filename).parts)]
    frame = (own or list(trace))[-1] if trace else None
    place = f" in line {frame.lineno} of {Path(frame.filename).name}" if frame else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} was raised{place}: {lines[0] if lines else '(no message)'}"
