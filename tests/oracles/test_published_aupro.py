"""AUPRO as published numbers have it, against the published code; and how far ours is from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.metrics.exact import pixel_metrics
from tests.oracles.agreement import Agree, golden, noise
from tests.oracles.published_aupro import published_aupro

ORACLE = "the published code's AUPRO (ULSAD-2024 at c75e169)"
GOLDEN = golden("published_aupro")


def coarse(key: int) -> NDArray[np.float32]:
    images, size, block = (GOLDEN[name] for name in ("images", "size", "block"))
    blocks = noise(images * (size // block) ** 2, key).reshape(images, size // block, size // block)
    return blocks.repeat(block, 1).repeat(block, 2)


def made(case: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Maps and masks as ``golden/published_aupro.md`` makes them."""
    key, lift = case["key"], np.float32(case["lift"])
    masks = (coarse(key) > np.float32(case["above"])).astype(np.uint8)
    masks[2] = 0
    mixed = np.float32(0.5) * noise(masks.size, key + 1).reshape(masks.shape)
    maps = (np.float32(1) - lift) * (mixed + np.float32(0.5) * coarse(key + 2)) + lift * masks
    if "background" in case:
        maps = np.where(masks == 1, maps, np.float32(case["background"]))
    if "levels" in case:
        maps = np.floor(np.float32(case["levels"]) * maps) / np.float32(case["levels"])
    return (maps * np.float32(case["scale"]) + np.float32(case["shift"])).astype(np.float32), masks


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_as_the_published_code(name: str, agree: Agree) -> None:
    case = GOLDEN["cases"][name]
    maps, masks = made(case)
    apart = [0.0]
    for limit, theirs in case["aupro"].items():
        found = published_aupro(maps, masks, float(limit))
        assert math.isnan(found) == (theirs is None)
        if theirs is not None:
            apart.append(abs(found - theirs))
    agree("AUPRO as published", name, ORACLE, max(apart), 5e-6, "absolute")


def test_ours_is_another_definition(agree: Agree) -> None:
    apart = []
    for case in GOLDEN["cases"].values():
        if case["scale"] == 1 and not {"levels", "background"} & case.keys():
            ours = pixel_metrics(*made(case))["aupro"]
            apart.append(abs(ours - case["aupro"]["0.3"]))
    agree("AUPRO", "named difference: another definition, no ties", ORACLE, max(apart), 0.01, "absolute")
