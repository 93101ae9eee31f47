"""The table of metrics: what follows from others, and that every place which shows metrics reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from harness.metrics.exact import image_metrics, pixel_metrics
from harness.results.store import write_record
from harness.spec.metrics import METRICS, completed, in_terminal, shown
from harness.spec.record import KINDS_MEAN, RunRecord
from reports.write import write

FIRST = Path(__file__).parents[2] / "museum" / "2026-first.json"


def test_what_follows_follows_from_what_stands_before_it() -> None:
    names = list(METRICS)
    for name, metric in METRICS.items():
        assert bool(metric.of) == (metric.follows is not None)
        assert all(part in names[: names.index(name)] for part in metric.of)


def test_iou_is_scikit_learns_at_its_best_threshold() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((3, 12, 12)) < 0.2
    maps = rng.integers(0, 40, (3, 12, 12)) + 10 * masks
    best = max(jaccard_score(masks.ravel(), (maps >= t).ravel()) for t in np.unique(maps))
    assert completed(pixel_metrics(maps, masks))["pixel_iou_max"] == pytest.approx(best, abs=1e-12)


def test_mad_is_the_mean_of_its_seven() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((6, 8, 8)) < 0.1
    masks[:3] = False
    maps = rng.random((6, 8, 8)) + 0.3 * masks
    found = image_metrics(maps.max(axis=(1, 2)), [0, 0, 0, 1, 1, 1]) | pixel_metrics(maps, masks)
    assert len(found) == 7
    assert completed(found)["mad"] == pytest.approx(np.mean(list(found.values())), abs=1e-12)
    assert completed(found | {"aupro": None})["mad"] is None
    assert "mad" not in completed({"image_auroc": 0.5})


def test_a_record_of_before_has_them_in_every_output(tmp_path: Path) -> None:
    record = RunRecord.model_validate_json(FIRST.read_bytes())
    values = record.metrics["all"]
    assert "mad" not in values
    f1 = values["pixel_f1max"]
    assert f1 is not None
    write_record(tmp_path / "results", record)
    list(write(tmp_path / "results", tmp_path / "report", formats="csv,json,markdown,html"))
    own = ("all", record.spec.category)
    rows = json.loads((tmp_path / "report" / "leaderboard.json").read_text())
    found = {row["metric"]: row["values"] for row in rows if (row["split"], row["category"]) == own}
    assert found["pixel_iou_max"] == [pytest.approx(100 * f1 / (2 - f1))]
    seven = [100 * (values[name] or 0) for name in METRICS["mad"].of]
    assert found["mad"] == [pytest.approx(sum(seven) / 7)]
    for file in ("leaderboard.csv", "leaderboard.md", "index.html"):
        text = (tmp_path / "report" / file).read_text()
        assert "mad" in text or "mAD" in text


def test_the_terminal_shows_detection_of_kinds_and_the_official_number_of_their_mean() -> None:
    assert in_terminal("all") == ("image_auroc", "pixel_auroc", "aupro")
    assert in_terminal("logical") == ("image_auroc",)
    assert in_terminal(KINDS_MEAN) == ("spro_0.05",)
    assert shown("check") == ("image_auroc", "pixel_auroc", "aupro")
