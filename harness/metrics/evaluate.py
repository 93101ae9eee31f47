"""What a run's scores and maps are measured against, and the metrics that its record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.data.card import NORMAL
from harness.data.category import Category
from harness.metrics.exact import split_metrics
from harness.metrics.native_size import Native
from harness.spec.metrics import completed
from harness.spec.run import RunSpec

if TYPE_CHECKING:
    import torch

Metrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Truth:
    """The test images of one category as metrics see them.

    Attributes:
        kinds: ``normal`` or the kind of anomaly of each image.
        masks: at the size of the input, uint8 ``[N, S, S]``, or at their own.
    """

    kinds: tuple[str, ...]
    masks: NDArray[np.uint8] | Native

    @property
    def defects(self) -> str:
        """SHA-256 of the table of defects that counts, empty where none does."""
        return self.masks.defects if isinstance(self.masks, Native) else ""


def read_truth(category: Category, spec: RunSpec, rows: Sequence[int] | None = None) -> Truth:
    """Reads kinds and masks of test images, where ``spec.evaluate`` says that pixels are compared.

    Args:
        category: of the images.
        spec: the run.
        rows: which of the test images count, all by default.

    Raises:
        UserError: a mask or the table of defects cannot be read.
    """
    samples = category.samples.test
    chosen = [samples[i] for i in rows] if rows is not None else samples
    kinds = tuple(sample.kind for sample in chosen)
    if spec.evaluate == "native":
        return Truth(kinds, Native(chosen, category.defects))
    # All are kept in the cache together, whichever of them a run tests on.
    masks = category.masks(spec.fit)
    return Truth(kinds, masks if len(chosen) == len(samples) else masks[list(rows or ())])


def evaluate(
    truth: Truth,
    scores: NDArray[np.float32],
    maps: NDArray[np.float32],
    splits: Mapping[str, Sequence[str]],
    category: str,
    device: torch.device | None = None,
) -> Metrics:
    """Returns what a record keeps: all metrics, of all images and of each kind of anomaly that there is.

    Args:
        truth: kinds and masks of the test images.
        scores: ``[N]``.
        maps: ``[N, S, S]``.
        splits: for each kind of anomaly, the categories of the dataset that have it.
        category: the category of the images.
        device: a GPU to sort pixels on.

    Raises:
        ValueError: scores or maps are not finite.
    """
    present = sorted({*truth.kinds} & {*splits} - {NORMAL})
    if isinstance(truth.masks, Native):
        wanted = sorted(kind for kind, names in splits.items() if category in names)
        found = truth.masks.metrics(scores, maps, present, wanted)
    else:
        found = split_metrics(scores, maps, truth.kinds, truth.masks, present, device)
    return {
        split: completed({name: recorded(value) for name, value in values.items()})
        for split, values in found.items()
    }


def recorded(value: float) -> float | None:
    """Returns a metric as records keep it: ``None`` where it is undefined."""
    return value if math.isfinite(value) else None
