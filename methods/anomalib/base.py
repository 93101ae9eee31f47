"""What all anomalib models share: from their outputs to a :class:`Prediction`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.method import Prediction


def prediction(output: Any, size: int) -> Prediction:
    """Unifies what anomalib's models return: shapes differ by model, values stay raw.

    Args:
        output: an ``InferenceBatch`` with ``pred_score`` ``[B]`` or ``[B, 1]`` and ``anomaly_map``
            ``[B, S, S]`` or ``[B, 1, S, S]``.
        size: side S of the images.

    Raises:
        ValueError: the map is not at the resolution of the input.
    """
    maps: Tensor = output.anomaly_map.float()
    maps = maps.reshape(-1, *maps.shape[-2:])
    if maps.shape[-2:] != (size, size):
        raise ValueError(f"the model's map is {tuple(maps.shape[-2:])}, not {(size, size)}")
    score: Tensor = output.pred_score.float().reshape(-1)
    return Prediction(score=score, map=maps)
