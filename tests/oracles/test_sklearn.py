"""Image and pixel metrics against scikit-learn: ties, constants, half precision."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics.exact import image_metrics, pixel_metrics
from tests.oracles.agreement import Agree, noise

SCORES = {
    "no ties": noise(60, 1),
    "ties": np.round(noise(60, 1) * 4),
    "a constant": np.ones(60, np.float32),
    "half precision": (noise(60, 1) + 100).astype(np.float16),
    "bytes": (8 * noise(60, 1)).astype(np.uint8),
    "tiny": noise(60, 1).astype(np.float64) * 1e-300,
}


def by_sklearn(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
        "f1max": (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max(),
    }


@pytest.mark.parametrize("name", SCORES)
def test_image_metrics(name: str, agree: Agree) -> None:
    scores, labels = SCORES[name], (noise(60, 2) > 0.4).astype(int)
    ours, theirs = image_metrics(scores, labels), by_sklearn(scores.astype(np.float64), labels)
    apart = max(abs(ours[f"image_{metric}"] - value) for metric, value in theirs.items())
    agree("AUROC, AP, F1-max", name, f"scikit-learn {sklearn.__version__}", apart, 1e-12, "absolute")


@pytest.mark.parametrize("name", SCORES)
def test_pixel_metrics(name: str, agree: Agree) -> None:
    maps = np.resize(SCORES[name], (4, 23, 30))
    masks = (noise(maps.size, 3).reshape(maps.shape) > 0.8).astype(int)
    masks[0], masks[1, :9, :12] = 0, 1
    ours, theirs = pixel_metrics(maps, masks), by_sklearn(maps.astype(np.float64).ravel(), masks.ravel())
    apart = max(abs(ours[f"pixel_{metric}"] - value) for metric, value in theirs.items())
    oracle = f"scikit-learn {sklearn.__version__}"
    agree("AUROC, AP, F1-max", f"pixels, {name}", oracle, apart, 1e-12, "absolute")
