"""AUPRO against MVTec AD's evaluation code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.metrics.exact import pixel_metrics
from tests.oracles.agreement import Agree, golden, noise

ORACLE = "MVTec AD's evaluation code"
GOLDEN = golden("pro")


def made(case: dict[str, Any], size: int, images: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Maps and masks as ``golden/pro.md`` makes them."""
    masks = np.zeros((images, size, size), np.uint8)
    for index, y, x, height, width in case["regions"]:
        masks[index, y : y + height, x : x + width] = 1
    maps = noise(masks.size, case["key"]).reshape(masks.shape) * np.float32(1 - case["lift"])
    maps = maps + np.float32(case["lift"]) * masks
    if "levels" in case:
        maps = np.floor(np.float32(case["levels"]) * maps)
    return maps.astype(np.float32), masks


@pytest.mark.parametrize("name", [name for name, case in GOLDEN["cases"].items() if "levels" not in case])
def test_pro_at_every_threshold(name: str, agree: Agree) -> None:
    case = GOLDEN["cases"][name]
    maps, masks = made(case, GOLDEN["size"], GOLDEN["images"])
    # Theirs has no point between two normal pixels, where ours rises at once: half a pixel's width at most.
    normal = int((masks == 0).sum())
    apart = [
        abs(pixel_metrics(maps, masks, float(x))["aupro"] - v) * float(x) * normal
        for x, v in case["au_pro"].items()
    ]
    assert len(apart) == 3
    agree("AUPRO", f"{name}, area in normal pixels", ORACLE, max(apart), 0.5, "pixels")


def test_pro_at_a_hundred_thresholds(agree: Agree) -> None:
    apart = []
    for case in GOLDEN["cases"].values():
        maps, masks = made(case, GOLDEN["size"], GOLDEN["images"])
        sampled = case.get("au_pro_100_thresholds", {})
        apart += [abs(pixel_metrics(maps, masks, float(x))["aupro"] - v) for x, v in sampled.items()]
    agree("AUPRO", "100 thresholds of theirs, which interpolates", ORACLE, max(apart), 5e-3, "absolute")


@pytest.mark.parametrize("levels", [4, 16])
def test_their_ties_enter_one_by_one(levels: int) -> None:
    """The one deviation: a tied group's overlap counts from its first normal pixel on.

    Their false-positive rate falls pixel by pixel while the overlap falls at once, so that equal values are
    not a straight line, as they are in LOCO's code, in scikit-learn and here.
    """
    case = GOLDEN["cases"][f"ties, {levels} levels"]
    maps, masks = made(case, GOLDEN["size"], GOLDEN["images"])
    assert abs(pixel_metrics(maps, masks, 1.0)["aupro"] - case["au_pro"]["1.0"]) > 0.005
