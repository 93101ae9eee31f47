"""Scores and maps of images, from a method that has been trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.batches import BATCH, to_device
from harness.method import Images, Method, Prediction
from harness.profiling.timing import Stopwatch


@dataclass(frozen=True)
class Scores:
    """What a method says of N images, on the host.

    Attributes:
        scores: float32 ``[N]``.
        maps: float32 ``[N, S, S]``.
    """

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """A method that predicts, its answers checked.

    Attributes:
        method: trained, or in the middle of its training.
        name: of the method, for messages.
        image_size: side of the images and maps.
        device: where it computes.
    """

    method: Method
    name: str
    image_size: int
    device: torch.device

    def predict(self, batch: torch.Tensor) -> Prediction:
        """Predicts a batch ``[B, 3, S, S]``.

        Raises:
            ValueError: a score or map has another shape than it should have.
        """
        with torch.no_grad():
            prediction = self.method.predict(batch)
        size = self.image_size
        expected = {"score": (len(batch),), "map": (len(batch), size, size)}
        for part, shape in expected.items():
            if tuple(getattr(prediction, part).shape) != shape:
                raise ValueError(
                    f"{self.name}.predict returned a {part} of shape "
                    f"{tuple(getattr(prediction, part).shape)}, not {shape}"
                )
        return prediction

    def scores(self, images: Images, clock: Stopwatch | None = None) -> Scores:
        """Predicts every image once; only prediction itself is on the clock."""
        predictions = []
        for batch in to_device(images.batches(BATCH), self.device):
            if clock:
                clock.start()
            predictions.append(self.predict(batch))
            if clock:
                clock.stop()
        return Scores(
            np.concatenate([p.score.float().cpu().numpy() for p in predictions]),
            np.concatenate([p.map.float().cpu().numpy() for p in predictions]),
        )

    def raw(self, images: Images) -> dict[str, NDArray[np.float32]]:
        """Returns what the method's post-processing starts from, see :meth:`harness.method.Method.raw`."""
        with torch.no_grad():
            batches = [self.method.raw(batch) for batch in to_device(images.batches(BATCH), self.device)]
        return {name: np.concatenate([b[name].float().cpu().numpy() for b in batches]) for name in batches[0]}
