"""Scores and maps, against kinds and masks: numbers.

Exact: nothing is binned. ``evaluate`` gives what a record keeps; thresholds are found without the test set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.metrics.evaluate import Truth, read_truth
    from harness.metrics.exact import METRICS_VERSIONS, image_metrics, pixel_metrics, split_metrics
    from harness.metrics.thresholds import operating_points

__all__ = [
    "METRICS_VERSIONS",
    "Truth",
    "image_metrics",
    "operating_points",
    "pixel_metrics",
    "read_truth",
    "split_metrics",
]

__getattr__ = lazy(
    __name__,
    {
        "METRICS_VERSIONS": "exact",
        "Truth": "evaluate",
        "image_metrics": "exact",
        "operating_points": "thresholds",
        "pixel_metrics": "exact",
        "read_truth": "evaluate",
        "split_metrics": "exact",
    },
)
