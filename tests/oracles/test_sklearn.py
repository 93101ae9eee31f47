"""Image and pixel metrics against scikit-learn: ties, constants, half precision."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics import image_metrics
from tests.oracles.agreement import Agree, noise

SCORES = {
    "no ties": noise(60, 1),
    "ties": np.round(noise(60, 1) * 4),
    "a constant": np.ones(60, np.float32),
    "half precision": (noise(60, 1) + 100).astype(np.float16),
}


@pytest.mark.parametrize("name", SCORES)
def test_image_metrics(name: str, agree: Agree) -> None:
    scores, labels = SCORES[name], (noise(60, 2) > 0.4).astype(int)
    exact = scores.astype(np.float64)
    precision, recall, _ = precision_recall_curve(labels, exact)
    theirs = {
        "image_auroc": roc_auc_score(labels, exact),
        "image_ap": average_precision_score(labels, exact),
        "image_f1max": (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max(),
    }
    ours = image_metrics(scores, labels)
    apart = max(abs(ours[metric] - value) for metric, value in theirs.items())
    agree("AUROC, AP, F1-max", name, f"scikit-learn {sklearn.__version__}", apart, 1e-12, "absolute")
