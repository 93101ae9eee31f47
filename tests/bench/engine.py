"""PaDiM and PatchCore by us and by anomalib's Engine, side by side in one process.

Both get the same images from memory and the same backbone with the same weights. The Engine runs bare: no
post-processor, metrics, pictures or logger, which it has by default and which cost it more.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.method import Images, Setup, TrainingData
from harness.registry.weights import find_weights, load_features
from methods.anomalib.coreset import sparse_projection
from methods.anomalib.padim import PaDiM, PaDiMConfig
from methods.anomalib.patchcore import PatchCore, PatchCoreConfig
from tests.bench.pairs import Pair

LITE = "tf_efficientnet_lite0"
# Indices of timm's feature maps, and their strides.
LAYERS = {"padim": {1: 4, 2: 8, 3: 16}, "patchcore": {2: 8, 3: 16}}


@dataclass(frozen=True)
class Pictures:
    """A category in MVTec's layout.

    Attributes:
        labels: whether each test image is anomalous, ``[N]``.
        masks: anomalous pixels of the test images, ``[N, S, S]``.
    """

    train: Images
    test: Images
    labels: NDArray[np.bool_]
    masks: NDArray[np.bool_]


def pictures(
    folder: Path, size: int, limit_train: int | None = None, limit_test: int | None = None
) -> Pictures:
    """Reads a category in MVTec's layout; of training and test images at most so many, evenly chosen."""

    def chosen(paths: list[Path], limit: int | None) -> list[Path]:
        step = max(1, len(paths) // limit) if limit else 1
        return paths[::step][:limit]

    def read(path: Path) -> NDArray[np.uint8]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)

    def mask(path: Path) -> NDArray[np.bool_]:
        if path.parent.name == "good":
            return np.zeros((size, size), np.bool_)
        name = folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        return cv2.resize(cv2.imread(str(name), 0), (size, size), interpolation=cv2.INTER_NEAREST) > 0

    train = chosen(sorted((folder / "train" / "good").glob("*.png")), limit_train)
    test = chosen(sorted((folder / "test").glob("*/*.png")), limit_test)
    return Pictures(
        Images(np.stack([read(p) for p in train])),
        Images(np.stack([read(p) for p in test])),
        np.array([p.parent.name != "good" for p in test]),
        np.stack([mask(p) for p in test]),
    )


def engine_module(name: str, ours: Any, backbone: str, size: int, channels: int = 100) -> Any:
    """Returns anomalib's Lightning module with the weights and normalisation of ``ours``, bare."""
    from anomalib.models import Padim, Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Normalize

    special: dict[str, Any] = {"n_features": channels} if name == "padim" else {}
    module: Any = {"padim": Padim, "patchcore": Patchcore}[name](
        backbone=backbone,
        layers=list(LAYERS[name]),
        pre_trained=False,
        pre_processor=PreProcessor(transform=Normalize(list(ours.mean), list(ours.std))),
        post_processor=False,
        evaluator=False,
        visualizer=False,
        **special,
    )
    module.model.feature_extractor.feature_extractor.load_state_dict(ours.network.state_dict())
    return module


def same_draws(name: str, module: Any, method: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the Engine's model what ``method`` of ours draws with seed 0; the selection itself stays theirs.

    Args:
        name: padim or patchcore.
        module: the Engine's.
        method: ours; fitted, where its state holds what it drew.
        count: number of training images.
        monkeypatch: pytest's.
    """
    from anomalib.models.components import KCenterGreedy
    from anomalib.models.image.patchcore import torch_model

    if name == "padim":
        module.model.idx = method.state_dict()["channels"]
        return
    features = sum(shape[0] for shape in method._maps.shapes)
    rows = count * method._maps.shapes[0][1] ** 2
    generator = torch.Generator().manual_seed(0)
    projection = sparse_projection(rows, features, generator)
    start = torch.randint(rows, (1,), generator=generator)

    class Projection:
        def fit(self, _: Tensor) -> None: ...

        def transform(self, x: Tensor) -> Tensor:
            return x @ projection

    class Greedy(KCenterGreedy):  # type: ignore[misc]
        def select_coreset_idxs(self) -> list[int]:
            self.model = Projection()
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", lambda **_: start)
                picks: list[int] = super().select_coreset_idxs()
            return picks

    monkeypatch.setattr(torch_model, "KCenterGreedy", Greedy)


def by_engine(module: Any, train: Images, test: Images, folder: Path) -> tuple[Tensor, Tensor]:
    """Fits and predicts with anomalib's Engine; returns scores ``[N]`` and maps ``[N, S, S]``."""
    from anomalib.data import ImageItem
    from anomalib.data.dataclasses.torch import ImageBatch
    from anomalib.engine import Engine
    from torch.utils.data import DataLoader, Dataset

    class Items(Dataset[Any]):
        def __init__(self, images: Images) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Any:
            return ImageItem(image=self.images.batch([index])[0].contiguous().float() / 255)

    def loader(images: Images) -> Any:
        return DataLoader(Items(images), batch_size=32, collate_fn=ImageBatch.collate)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet)
    engine.fit(module, train_dataloaders=loader(train))
    found: Any = engine.predict(module, dataloaders=loader(test), return_predictions=True)
    scores = torch.cat([batch.pred_score.reshape(-1) for batch in found])
    maps = torch.cat([batch.anomaly_map.reshape(-1, *batch.anomaly_map.shape[-2:]) for batch in found])
    return scores, maps


def by_us(name: str, setup: Setup, train: Images, test: Images) -> None:
    """Fits and predicts with ours."""
    config = {"backbone": LITE, "center_crop": 1}
    method: PaDiM | PatchCore
    if name == "padim":
        method = PaDiM(PaDiMConfig.model_validate(config | {"channels": 100}), setup)
    else:
        method = PatchCore(PatchCoreConfig.model_validate(config | {"upsample": "nearest"}), setup)
    method.fit(TrainingData(train, train, 0), lambda _: None)
    for batch in test.batches(32):
        method.predict(batch)


def pairs(rounds: int = 3, size: int = 128, limit: int = 0) -> Iterator[Pair]:
    """Yields PaDiM and PatchCore on all images of screw; neither side pays for imports or reading weights.

    Without BENCH_SHARED, which names a folder that holds ``data/mvtec/screw``, it yields nothing and says so.
    """
    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        print("engine: left out, BENCH_SHARED names no folder that holds data/mvtec/screw")  # noqa: T201
        return
    import anomalib.engine
    import anomalib.models  # noqa: F401

    logging.disable(logging.WARNING)
    found = pictures(Path(shared) / "data" / "mvtec" / "screw", size, limit or None, limit or None)
    with tempfile.TemporaryDirectory() as folder:
        weights = find_weights(LITE, Path(folder))
        cpu = torch.device("cpu")
        loaded = {
            strides: load_features(weights, strides, cpu)
            for strides in (tuple(layers.values()) for layers in LAYERS.values())
        }

        def features(_: str, strides: Sequence[int]) -> Any:
            return loaded[tuple(strides)]

        def none(_: str) -> Any:
            raise RuntimeError("nothing but feature maps is needed here")

        setup = Setup(cpu, size, 0, none, features, none, Path(folder))
        for name in LAYERS:

            def theirs(name: str = name) -> None:
                ours = features(LITE, tuple(LAYERS[name].values()))
                module = engine_module(name, ours, LITE, size)
                with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                    by_engine(module, found.train, found.test, Path(folder))

            def mine(name: str = name) -> None:
                by_us(name, setup, found.train, found.test)

            note = f"{len(found.train)} training, {len(found.test)} test images of {size} px"
            yield Pair(
                f"{name}, fit and predict", mine, theirs, "anomalib's Engine", 1 / 0.7, rounds, note=note
            )
