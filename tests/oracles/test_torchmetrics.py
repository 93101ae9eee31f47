"""Metrics against torchmetrics, and AUPRO against anomalib, on scores within [0, 1].

Outside, torchmetrics puts a sigmoid over scores, which makes large ones equal.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.metrics.exact import image_metrics, pixel_metrics
from tests.oracles.agreement import Agree, noise

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

# Theirs counts, divides and adds in single precision.
SINGLE = 1e-6
SHAPE = (6, 40, 36)


def regions() -> NDArray[np.uint8]:
    """Regions of several sizes, at borders and of one pixel; the first image is normal."""
    masks = np.zeros(SHAPE, np.uint8)
    masks[1, 4:12, 6:20] = masks[1, 30:, 30:] = masks[2, 0, :] = masks[3, 20, 20] = 1
    masks[4, 10:25, 3:9] = masks[4, 10:12, 3:30] = masks[5, :, 35] = 1
    return masks


def diagonals() -> NDArray[np.uint8]:
    """Lines of pixels that touch at their corners: one region each only if 8-connected."""
    masks = np.zeros(SHAPE, np.uint8)
    for image in (1, 3):
        masks[image, np.arange(20), np.arange(20) + image] = 1
    masks[2, 5:9, 5:9] = masks[2, 9, 9] = 1
    return masks


def maps(masks: NDArray[np.uint8], levels: int = 0) -> NDArray[np.float32]:
    """Maps in [0, 1] that see the anomalies dimly; no two values alike, or so many levels."""
    made = (0.65 * noise(masks.size, 3).reshape(SHAPE) + 0.35 * masks).astype(np.float32)
    if levels:
        return (np.floor(levels * made) / levels).astype(np.float32)
    # By rank: noise in single precision has equal values now and then.
    ranks = np.argsort(np.argsort(made, axis=None, kind="stable"), kind="stable")
    return (ranks.reshape(SHAPE) / masks.size).astype(np.float32)


CASES = {
    "no ties": (maps(regions()), regions()),
    "8 levels": (maps(regions(), 8), regions()),
    "diagonal regions": (maps(diagonals()), diagonals()),
}


def by_torchmetrics(scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> dict[str, float]:
    from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

    given = torch.from_numpy(scores).flatten(), torch.from_numpy(labels).flatten().long()
    return {"auroc": float(BinaryAUROC()(*given)), "ap": float(BinaryAveragePrecision()(*given))}


def by_anomalib(scores: NDArray[np.float32], masks: NDArray[np.uint8], limit: float) -> float:
    from anomalib.data import ImageBatch
    from anomalib.metrics import AUPRO

    metric = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=limit)
    images = torch.zeros(len(masks), 3, *masks.shape[1:])
    metric.update(
        ImageBatch(
            image=images,
            anomaly_map=torch.from_numpy(scores),
            gt_mask=torch.from_numpy(masks).bool(),
            gt_label=torch.from_numpy(masks.any((1, 2))),
        )
    )
    return float(metric.compute())


@pytest.mark.parametrize("levels", [0, 5])
def test_image_metrics(levels: int, agree: Agree) -> None:
    labels = (noise(80, 2) > 0.4).astype(np.uint8)
    scores = 0.7 * noise(80, 1) + np.float32(0.3) * labels
    scores = (np.floor(levels * scores) / levels if levels else scores).astype(np.float32)
    assert levels or len(np.unique(scores)) == 80
    ours, theirs = image_metrics(scores, labels), by_torchmetrics(scores, labels)
    apart = max(abs(ours[f"image_{name}"] - value) for name, value in theirs.items())
    check = f"image scores, {levels} levels" if levels else "image scores, no ties"
    agree("AUROC, AP", check, f"torchmetrics {version('torchmetrics')}", apart, SINGLE, "absolute")


@pytest.mark.parametrize("name", CASES)
def test_pixel_metrics(name: str, agree: Agree) -> None:
    ours, theirs = pixel_metrics(*CASES[name]), by_torchmetrics(*CASES[name])
    apart = max(abs(ours[f"pixel_{metric}"] - value) for metric, value in theirs.items())
    oracle = f"torchmetrics {version('torchmetrics')}"
    agree("AUROC, AP", f"pixels, {name}", oracle, apart, SINGLE, "absolute")


@pytest.mark.parametrize("name", CASES)
def test_aupro(name: str, agree: Agree) -> None:
    given = CASES[name]
    limits = (0.05, 0.3, 1.0)
    apart = max(abs(pixel_metrics(*given, x)["aupro"] - by_anomalib(*given, x)) for x in limits)
    check = f"{name}, up to 0.05, 0.3 and 1"
    agree("AUPRO", check, f"anomalib {version('anomalib')}", apart, SINGLE, "absolute")
