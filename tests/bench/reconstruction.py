"""ULSAD and DFR: against DFR as its authors compute it, and against themselves without kept features."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Images, Method, Prediction, Setup, TrainingData
from harness.profiling.memory import PeakMemory
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import find_weights
from methods.dfr import DFR, DFRConfig
from methods.features import Place
from methods.precision import has_bf16
from methods.ulsad import ULSAD, ULSADConfig
from tests.bench.pairs import Pair

CPU = torch.device("cpu")
SIZE = 256
KEPT: Place = "the host's memory"
AGAIN: Place = "nowhere, computed for every batch"


class OriginalDFR(DFR):
    """DFR as its authors compute it: every layer is blown up to the image's size, then averaged."""

    def _to_grid(self, y: Tensor) -> Tensor:
        size = (self.setup.image_size, self.setup.image_size)
        return F.avg_pool2d(F.interpolate(y, size, mode="bilinear", align_corners=True), 4)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The whole batch at once, all layers in one tensor."""
        assert self.autoencoder is not None
        y = self.features(images)
        errors = (self.autoencoder(y) - y).square().mean(dim=1, keepdim=True)
        size = (self.setup.image_size, self.setup.image_size)
        maps = F.interpolate(errors, size, mode="bilinear", align_corners=True)[:, 0]
        return Prediction(maps.amax(dim=(1, 2)), maps)


def setup(backbone: str, folder: Path, device: torch.device = CPU) -> Setup:
    """Random weights do: no arithmetic depends on them."""
    weights = find_weights(backbone, folder, pretrained=False)
    return make_setup({backbone: weights}, {}, Surroundings(device, SIZE, 0, folder))


def images(count: int) -> Images:
    """Noise over a ramp, so that no channel is constant."""
    draws = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3))
    ramp = np.linspace(0, 1, SIZE)[None, :, None, None]
    return Images((draws * ramp).astype(np.uint8))


def fitted(method: type[Method], config: Any, given: Setup, count: int = 10) -> Method:
    """Returns a method after one epoch on a few images."""
    made = method(config, given)
    few = images(count)
    made.fit(TrainingData(few, few, 0), lambda _: None)
    return made


def predict_memory(method: Method, batch: Tensor) -> float:
    """Returns the peak megabytes of predicting a batch, above what the process held before."""
    memory = PeakMemory(CPU)
    with torch.no_grad():
        method.predict(batch)
    return memory.read()["host"] / 1e6


def _predict(method: Method, batch: Tensor) -> None:
    with torch.no_grad():
        method.predict(batch)


def pairs(rounds: int = 5, batch: int = 8) -> Iterator[Pair]:
    """Yields the comparisons of prediction, then that of training."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vgg, wide = setup("vgg19", folder), setup("wide_resnet50_2", folder)
        dfr = fitted(DFR, DFRConfig(epochs=1), vgg)
        original = OriginalDFR(DFRConfig(epochs=1), vgg)
        original.load_state_dict(dfr.state_dict())
        # Random weights are drawn anew for each.
        original._maps = dfr._maps
        ulsad = fitted(ULSAD, ULSADConfig(epochs=1), wide)
        X = images(batch).batch(range(batch))
        with torch.no_grad():
            torch.testing.assert_close(dfr.predict(X).map, original.predict(X).map, rtol=1e-3, atol=1e-5)
        note = f"predict, batch {batch}, {SIZE} px, random weights"

        def slow() -> None:
            _predict(original, X)

        peer = "DFR in the original way"
        yield Pair("ULSAD's prediction", lambda: _predict(ulsad, X), slow, peer, 2.2, rounds, note=note)
        yield Pair("DFR's prediction", lambda: _predict(dfr, X), slow, peer, 2.0, rounds, note=note)
        if has_bf16(CPU):
            fast = ULSAD(ULSADConfig(precision="bf16"), wide)
            fast.load_state_dict(ulsad.state_dict())
            exact = "ULSAD in float32"
            yield Pair(
                "ULSAD in bf16",
                lambda: _predict(fast, X),
                lambda: _predict(ulsad, X),
                exact,
                1,
                rounds,
                note=note,
            )
        else:
            print("ULSAD in bf16: left out, this processor has no bfloat16 arithmetic")  # noqa: T201
        yield Pair(
            "DFR's memory of prediction",
            lambda: predict_memory(dfr, X),
            lambda: predict_memory(original, X),
            peer,
            3.0,
            3,
            "MB",
            note,
        )
        yield _training(wide, max(3, rounds // 2))


def _training(wide: Setup, rounds: int) -> Pair:
    """ULSAD with features kept, and with features computed again for every batch."""
    few, epochs = images(16), 4

    def train(place: Place) -> None:
        with patch("methods.features.find_place", lambda *_: place):
            ULSAD(ULSADConfig(epochs=epochs, quantiles=False), wide).fit(
                TrainingData(few, few, 0), lambda _: None
            )

    note = f"{epochs} epochs of {len(few)} images, {SIZE} px, the pass that keeps them included"
    peer = "features computed again"
    kept, again = (lambda place=place: train(place) for place in (KEPT, AGAIN))  # type: ignore[misc]
    return Pair("ULSAD's training", kept, again, peer, 1 / 0.85, rounds, note=note)
