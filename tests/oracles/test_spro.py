"""sPRO and image-level detection against MVTec LOCO's evaluation code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.metrics.exact import image_metrics
from harness.metrics.spro import Annotated, Annotation, saturation_area, split_spro
from tests.oracles.agreement import Agree, golden, noise

ORACLE = "MVTec LOCO's evaluation code"
GOLDEN = golden("spro")
KINDS = {"good": "normal", "structural_anomalies": "structural", "logical_anomalies": "logical"}
DEFECTS = {defect["defect_name"]: defect for defect in GOLDEN["defects"]}
LESS_THAN_A_PIXEL = "saturated by less than a pixel, found first"


def box(size: int, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def image(given: dict[str, Any], levels: int, lift: float) -> Annotated:
    """An image as ``golden/spro.md`` makes it, its saturation areas computed by us."""
    size = GOLDEN["size"]
    inside, annotations = np.zeros((size, size), np.float32), []
    for name, *where in given["annotations"]:
        mask, defect = box(size, *where), DEFECTS[name]
        inside[mask] = 1
        area = saturation_area(int(mask.sum()), defect["saturation_threshold"], defect["relative_saturation"])
        annotations.append(Annotation(mask, area))
    values = noise(size * size, given["key"]).reshape(size, size)
    values = values * np.float32(1 - lift) + np.float32(lift) * inside
    if levels:
        values = np.floor(np.float32(levels) * values)
    return Annotated(values, KINDS[given["kind"]], annotations)


def made(case: dict[str, Any]) -> list[Annotated]:
    return [image(given, case["levels"], case["lift"]) for given in case["images"]]


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_spro(name: str, agree: Agree) -> None:
    case = GOLDEN["cases"][name]
    found = split_spro(made(case), ["structural", "logical"])
    apart = [
        abs(found[split.removesuffix("_anomalies")][f"spro_{float(limit):g}"] - value)
        for split, values in case["auc_spro"].items()
        for limit, value in values.items()
    ]
    assert len(apart) == 15
    agree("sPRO", name, ORACLE, max(apart), 1e-12, "absolute")


def test_saturation_areas(agree: Agree) -> None:
    apart, seen = [], 0
    for name, case in GOLDEN["cases"].items():
        for ours, theirs in zip(made(case), case["saturation_areas"], strict=True):
            for annotation, area in zip(ours.annotations, theirs, strict=True):
                # Theirs divides by a saturation area of 0; ours needs one pixel.
                assert (area == 0) <= (name == LESS_THAN_A_PIXEL)
                apart.append(abs(annotation.saturation - max(1, area)))
                seen += area == 0
    assert seen == 2
    agree("sPRO", "saturation areas, whole pixels", ORACLE, max(apart), 0, "pixels")


def of_maxima(images: list[Annotated], kind: str) -> float:
    chosen = [one for one in images if one.kind in ("normal", kind)]
    scores, labels = [one.map.max() for one in chosen], [one.kind != "normal" for one in chosen]
    return image_metrics(np.array(scores), np.array(labels))["image_auroc"]


def test_detection_by_the_maximum_of_the_map(agree: Agree) -> None:
    apart = []
    for case in GOLDEN["cases"].values():
        if not case["levels"]:
            images = made(case)
            apart += [
                abs(of_maxima(images, split.removesuffix("_anomalies")) - case["auc_roc"][split])
                for split in ("structural_anomalies", "logical_anomalies")
            ]
    assert len(apart) == 8
    agree("image AUROC of the maps' maxima", "scores without ties", ORACLE, max(apart), 1e-12, "absolute")


def test_their_detection_counts_ties_for_the_detector() -> None:
    """The one deviation: a constant map has 2/3 with them, 1/2 here, as in scikit-learn."""
    case = GOLDEN["cases"]["constant"]
    assert case["auc_roc"]["mean"] == pytest.approx(2 / 3)
    assert of_maxima(made(case), "logical") == 0.5
