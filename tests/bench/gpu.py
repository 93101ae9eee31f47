"""What a GPU makes of our own methods, beside limits: `nox -s bench-gpu`.

Random weights and noise for images do: no speed depends on them. Neither anomalib nor a network is needed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor

from harness.method import Method, TrainingData
from harness.profiling.memory import PeakMemory
from harness.profiling.timing import rate, repeat, synchronise
from methods.anomalib.coreset import greedy_coreset, sparse_projection
from methods.dfr import DFR, DFRConfig
from methods.precision import has_bf16
from methods.replay import Replayed
from methods.ulsad import ULSAD, ULSADConfig
from tests.bench.memory_bank import patches
from tests.bench.pairs import Pair
from tests.bench.reconstruction import OriginalDFR, fitted, images, setup


def pairs(
    rounds: int = 3,
    batch: int = 32,
    epochs: int = 200,
    train: int = 350,
    backbones: tuple[str, str] = ("vgg19", "wide_resnet50_2"),
    trial: bool = False,
) -> Iterator[Pair]:
    """Yields costs beside what they may be on an H200; a trial, with smaller numbers, needs no GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not trial:
        print("gpu: left out, PyTorch finds no GPU")  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vgg, wide = (setup(backbone, folder, device) for backbone in backbones)
        exact = fitted(ULSAD, ULSADConfig(backbone=backbones[1], epochs=1), wide)
        # A trial's processor may have no such arithmetic, and ULSAD refuses to train in it then.
        precision: Literal["bf16", "float32"] = "bf16" if has_bf16(device) else "float32"
        quick = ULSADConfig(backbone=backbones[1], precision=precision, epochs=epochs)
        fast = ULSAD(quick, wide)
        fast.load_state_dict(exact.state_dict())
        original = fitted(OriginalDFR, DFRConfig(backbone=backbones[0], epochs=1), vgg)
        dfr = DFR(DFRConfig(backbone=backbones[0]), vgg)
        dfr.load_state_dict(original.state_dict())
        X = images(batch).batch(range(batch)).to(device)

        def cost(method: Method, given: Tensor = X) -> Callable[[], float]:
            """Milliseconds an image."""
            seconds = 0.0 if trial else 1.0
            return lambda: (
                1000 / rate(len(given), repeat(lambda: _predict(method, given), device, seconds)).median
            )

        def memory(method: Method) -> Callable[[], float]:
            return lambda: _memory(method, X, device)

        note = f"predict, batch {batch}, random weights"
        for title, method, least in (("bf16", fast, 4500), ("float32", exact, 1500)):
            peer = f"a limit of {least} images/s"
            yield Pair(
                f"ULSAD in {title}",
                cost(method),
                lambda least=least: 1000 / least,  # type: ignore[misc]
                peer,
                1,
                rounds,
                "ms an image",
                note,
            )
        slow = "DFR in the original way"
        yield Pair("ULSAD in bf16", cost(fast), cost(original), slow, 4, rounds, "ms an image", note)
        yield Pair("DFR", cost(dfr), cost(original), slow, 2, rounds, "ms an image", note)
        yield Pair("ULSAD's memory in bf16", memory(fast), lambda: 800, "0.8 GB", 1, rounds, "MB", note)
        share = 1 / 0.15
        yield Pair("ULSAD's memory in bf16", memory(fast), memory(original), slow, share, rounds, "MB", note)

        def training(count: int, graphs: bool = True) -> float:
            some, config = images(train), quick.model_copy(update={"epochs": count})
            with patch.object(Replayed, "enabled", graphs):
                made = ULSAD(config, wide)
                return _seconds(lambda: made.fit(TrainingData(some, some, 0), lambda _: None), device)

        note = f"{epochs} epochs of {train} images, {precision}"
        limit, short = "a limit of 40 s", max(1, epochs // 10)
        yield Pair("ULSAD's training", lambda: training(epochs), lambda: 40, limit, 1, 1, "seconds", note)
        with patch.object(Replayed, "enabled", False):
            plain = ULSAD(quick, wide)
        plain.load_state_dict(exact.state_dict())
        peer, one = "one kernel after another", X[:1]
        yield Pair(
            "ULSAD's training as CUDA graphs",
            lambda: training(short),
            lambda: training(short, graphs=False),
            peer,
            1,
            rounds,
            "seconds",
            f"{short} epochs of {train} images, {precision}; recorded {wide.choices.get('training steps')}",
        )
        for given in (one, X):
            yield Pair(
                "ULSAD's prediction as a CUDA graph",
                cost(fast, given),
                cost(plain, given),
                peer,
                1,
                rounds,
                "ms an image",
                f"batch {len(given)}, {precision}",
            )

    rows = 1024 * max(1, train * 300 // 350)
    bank = patches(rows, 1536)
    bank = (bank @ sparse_projection(rows, 1536, torch.Generator().manual_seed(1))).to(device)

    def coreset() -> float:
        return _seconds(lambda: greedy_coreset(bank, len(bank) // 10, 0), device)

    note = f"a tenth of {rows} patches"
    yield Pair("PatchCore's coreset", coreset, lambda: 5, "a limit of 5 s", 1, 1, "seconds", note)


def _predict(method: Method, X: Tensor) -> None:
    with torch.no_grad():
        method.predict(X)


def _memory(method: Method, X: Tensor, device: torch.device) -> float:
    """Peak megabytes of predicting a batch, weights included on a GPU."""
    memory = PeakMemory(device)
    _predict(method, X)
    synchronise(device)
    peaks = memory.read()
    return peaks.get("device", peaks.get("host", 0)) / 1e6


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    begun = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begun
