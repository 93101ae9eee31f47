"""AUPRO as the code computes it that the published numbers come from: another number than ours.

The definition, from ``anomalib/utils/metrics/aupro.py`` of sukanyapatra1997/ULSAD-2024 at c75e169 (lines in
brackets), with ``binary_roc`` and ``auc`` of torchmetrics 0.10.3, which its ``requirements.txt`` pins:

- A ROC curve has a point for every distinct score, and (0, 0) before them. As soon as one of the scores
  that it
  is drawn from leaves [0, 1], a sigmoid in float32 is put over all of them (``precision_recall_curve.py``,
  175
  of torchmetrics), which makes large scores equal: above 17 all are 1.
- K is the number of points of the curve of all pixels whose false-positive rate is at most the limit
  [126–133].
- Each 8-connected region of a mask has its own curve, on the background of all images and the pixels of that
  region alone [154–158]. It is cut at the limit; the point at the limit is interpolated from the next one
  [161–176]. Where no false-positive rate but 0 is within the limit, it is cut at the next rate instead.
- The regions' curves have different numbers of points. Each is stretched to K places *by the index of its
  points*, not by false-positive rate; its last place only is where its rate is the limit [178–187].
- Rates and overlaps are averaged over regions place by place, which mixes overlaps at different
  false-positive
  rates [188–193]. The area under the mean curve, its points sorted by rate, is divided by the last mean rate
  [219–220]. It is NaN where that is 0, which is so as soon as K is 1: the highest score is shared by more of
  the background than the limit allows.

``python -m tests.oracles.published_aupro RESULTS --data-root FOLDER`` prints it beside ours for every
record of
a results folder that has kept maps.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.common.places import Places
from harness.data.card import load_card
from harness.data.category import open_category
from harness.metrics.evaluate import read_truth
from harness.metrics.exact import LIMIT, pixel_metrics
from harness.results.maps import DamagedMapsError, load_maps
from harness.results.store import Damaged, read_record, record_files
from harness.spec.record import RunRecord

Floats = NDArray[np.float64]


def published_aupro(maps: NDArray[np.float32], masks: NDArray[np.uint8], limit: float = LIMIT) -> float:
    """AUPRO as the published code defines it, see the top of this file.

    Rates are float32 as in the published code, all after them is float64.

    Args:
        maps: ``[N, H, W]``, finite; higher is more anomalous. Not only ranks matter.
        masks: ``[N, H, W]``, non-zero for anomalous; some pixels must be normal, some anomalous.
        limit: false-positive rate to integrate to, in (0, 1).

    Returns:
        Mostly in [0, 1], for nothing holds it there; NaN where the mean curve ends at a false-positive
          rate of 0.
    """
    order = np.argsort(-maps.ravel(), kind="stable")
    scores, regions = maps.ravel()[order], _regions(masks).ravel()[order]
    end = np.float32(limit)
    places = int((_curve(scores, regions > 0)[0] <= end).sum())
    if places < 2:
        return math.nan
    rates, overlaps = np.zeros(places), np.zeros(places)
    count = int(regions.max())
    for region in range(1, count + 1):
        chosen = (regions == 0) | (regions == region)
        rate, overlap = _stretched(*_curve(scores[chosen], regions[chosen] == region), places, end)
        rates += rate / count
        overlaps += overlap / count
    ascending = np.argsort(rates, kind="stable")
    return float(np.trapezoid(overlaps[ascending], rates[ascending]) / rates[-1])


def _regions(masks: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Numbers the regions of all masks from 1; 0 is background."""
    found = np.zeros(masks.shape, np.int32)
    for own, mask in zip(found, masks, strict=True):
        labels = cv2.connectedComponents((mask != 0).astype(np.uint8), connectivity=8)[1]
        own[:] = np.where(labels > 0, labels + found.max(), 0)
    return found


def _curve(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False- and true-positive rates at every distinct score, from (0, 0) on; scores descend."""
    if scores[0] > 1 or scores[-1] < 0:
        # Every step in float32: which scores become equal depends on it.
        scores = 1 / (1 + np.exp(-scores))
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(positive)[last]
    false = 1 + last - found
    rates = [np.append(0, counts / counts[-1]) for counts in (false, found)]
    return rates[0].astype(np.float32).astype(np.float64), rates[1].astype(np.float32).astype(np.float64)


def _stretched(rate: Floats, overlap: Floats, places: int, limit: np.float32) -> tuple[Floats, Floats]:
    """A region's curve up to the limit, read at so many places that are even in its points' index."""
    within = rate <= limit
    if rate[within].max() == 0:
        within = rate <= rate[rate > limit].min()
    last = int(np.flatnonzero(within)[-1])
    # Where the curve is read last, in points of its own.
    stop = float(last)
    beyond = int(np.searchsorted(rate, limit))
    points = last
    if not np.isclose(rate[last], limit, rtol=1e-5, atol=1e-8):
        share = (limit - rate[beyond - 1]) / (rate[beyond] - rate[beyond - 1])
        points = max(last, beyond)
        stop = last + (beyond - last) * float(share)
    index = np.linspace(0, points, places)
    index[-1] = stop
    known = np.arange(points + 1)
    return np.interp(index, known, rate[: points + 1]), np.interp(index, known, overlap[: points + 1])


def compared(results: Path, data_root: Path | None, cache: Path) -> Iterator[tuple[RunRecord, float, float]]:
    """Yields the records that have kept maps with their AUPRO, ours and the published code's, over all
    images.

    Raises:
        UserError: there is no results folder, or the masks of a record cannot be read.
    """
    for path in record_files(results):
        record = read_record(path)
        if isinstance(record, Damaged) or record.outcome != "ok" or record.spec.evaluate == "native":
            continue
        try:
            maps, _ = load_maps(path.with_suffix(".maps.safetensors"))
        except DamagedMapsError:
            continue
        spec = record.spec
        category = open_category(load_card(spec.dataset), spec.category, Places(cache, data_root))
        moved = record.counts.get("moved", 0)
        rows = category.scored_rows(spec, moved, record.identity.incomplete_batches)
        masks = read_truth(category, spec, rows).masks
        assert isinstance(masks, np.ndarray)
        yield record, pixel_metrics(maps, masks)["aupro"], published_aupro(maps, masks)


def table(found: Sequence[tuple[RunRecord, float, float]]) -> str:
    """Markdown, a row for each record, in percent and percentage points."""
    lines = [
        "| method | category | AUPRO | as the published code | difference |",
        "|---|---|---:|---:|---:|",
    ]
    for record, ours, theirs in found:
        values = f"{100 * ours:.2f} | {100 * theirs:.2f} | {100 * (theirs - ours):+.2f}"
        lines.append(f"| {record.spec.method} | {record.spec.dataset}/{record.spec.category} | {values} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="AUPRO from kept maps, ours and the published code's.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    given = parser.parse_args()
    try:
        found = list(compared(given.results, given.data_root, given.cache))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{table(found)}\n" if found else "No record here has kept maps.\n")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
