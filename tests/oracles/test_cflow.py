"""CFLOW held against its authors' code by values: golden/cflow.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from harness.method import Epoch, Images, Setup, TrainingData
from harness.registry.weights import FeatureExtractor
from methods.anomalib import cflow as cflow_module
from methods.anomalib.base import FeatureMaps
from methods.anomalib.base import step as step_of_base
from tests.oracles.agreement import Agree, against, filled, golden, noise, relative
from tests.oracles.test_reverse_distillation import fill

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

SUBJECT, ORACLE = "CFLOW", "gudovskiy/cflow-ad at b2ebf9e, FrEIA at cc5cf5e"
CHANNELS, STRIDES, SIZE = (8, 12, 16), (8, 16, 32), 256


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return golden("cflow")


def setup_of(backbone: Any, size: int) -> Setup:
    def none(_: str) -> Any:
        raise AssertionError

    return Setup(
        torch.device("cpu"),
        size,
        0,
        load_network=none,
        load_features=lambda *_: backbone,
        asset=none,
        scratch=Path(),
    )


def rotation(n: int, key: float) -> Tensor:
    """Two reflections, as golden/cflow.md says."""
    found = np.eye(n)
    for k in range(2):
        v = noise(n, key + k).astype(np.float64) - 0.5
        found = found @ (np.eye(n) - 2 * np.outer(v, v) / (v @ v))
    return torch.from_numpy(found.astype(np.float32))


@torch.no_grad()
def fill_decoder(decoder: Any, key: int) -> None:
    for k, block in enumerate(decoder.module_list):
        b, n = key + 20 * k, block.in_channels
        block.global_scale.copy_(2 * math.log(math.exp(5) - 1) + (filled((1, n), b) - 0.5))
        block.global_offset.copy_(0.2 * (filled((1, n), b + 1) - 0.5))
        block.w_perm.copy_(rotation(n, b + 2))
        block.w_perm_inv.copy_(block.w_perm.T)
        for j, layer in enumerate((block.subnet[0], block.subnet[2])):
            spread = 4 * (3 / layer.in_features) ** 0.5
            layer.weight.copy_((filled(tuple(layer.weight.shape), b + 4 + 2 * j) - 0.5) * spread)
            layer.bias.copy_(0.4 * (filled(tuple(layer.bias.shape), b + 5 + 2 * j) - 0.5))


class Numbered(nn.Module):
    """A backbone whose images are numbers, and whose feature maps are made by a formula from them."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    channels, reductions = CHANNELS, STRIDES

    def forward(self, x: Tensor) -> list[Tensor]:
        keys = [(5000 if n < 100 else 5400) + n for n in (round(float(v) * 255) for v in x[:, 0, 0, 0])]
        shapes = [(c, SIZE // s, SIZE // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
        return [
            torch.stack([2 * filled(shape, key + 10 * level) ** 2 for key in keys])
            for level, shape in enumerate(shapes)
        ]


def images(first: int, count: int) -> Images:
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return Images(np.broadcast_to(numbers[:, None, None, None], (count, SIZE, SIZE, 3)))


def test_positions_are_the_authors(values: dict[str, Any], agree: Agree) -> None:
    from anomalib.models.image.cflow.utils import positional_encoding_2d

    for size, entry in values["positions"].items():
        h, w = map(int, size.split("x"))
        difference = against(entry, positional_encoding_2d(128, h, w))
        agree(SUBJECT, f"position code of {h} × {w}", ORACLE, difference, 1e-6)


def test_decoder_is_the_authors(values: dict[str, Any], agree: Agree) -> None:
    from anomalib.models.image.cflow.utils import cflow_head, get_logp, positional_encoding_2d

    decoder = cflow_head(128, 8, 1.9, 16, True)
    fill_decoder(decoder, 4000)
    positions = positional_encoding_2d(128, 8, 8).reshape(128, 64).T
    with torch.no_grad():
        z, jacobian = decoder(2 * filled((64, 16), 4900) ** 2, [positions])
    found = get_logp(16, z, jacobian) / 16
    theirs = values["decoder"]
    agree(SUBJECT, "decoder of 8 blocks: z", ORACLE, against(theirs["z"], z), 1e-5)
    difference = against(theirs["log_likelihood"], found)
    agree(SUBJECT, "log-likelihood per channel at each position", ORACLE, difference, 1e-5)
    loss = float(-nn.functional.logsigmoid(found).mean())
    agree(SUBJECT, "loss", ORACLE, relative(loss, theirs["loss"]), 1e-6)


def test_schedule_is_the_authors(values: dict[str, Any], agree: Agree) -> None:
    steps = 24  # of each meta-epoch
    first = [cflow_module.learning_rate(i / steps, 25, 2e-4) for i in range(2 * steps)]
    last = [cflow_module.learning_rate(e + (steps - 1) / steps, 25, 2e-4) for e in range(25)]
    difference = relative(
        first + last, values["schedule_warm_up"] + values["schedule_last_of_each_meta_epoch"]
    )
    agree(SUBJECT, "learning rates of 25 meta-epochs, warm-up step by step", ORACLE, difference, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("idle", "entry"), [(False, "authors_code"), (True, "authors_code_zero_gradients")])
def test_training_and_scores_are_the_authors(
    idle: bool, entry: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, agree: Agree
) -> None:
    """The whole of the authors' ``train()``, but for images and backbone.

    One deviation is undone here: ours takes each level's highest likelihood from normal validation images,
    the authors' code from all test images. So the test images stand where the validation images would be.
    """
    theirs = values[entry]

    def permutation(n: int, **_: Any) -> Tensor:
        return torch.arange(n) if n == 8 else torch.from_numpy(np.argsort(noise(n, 77.0), kind="stable"))

    losses: list[float] = []
    made = step_of_base

    def step(*arguments: Any) -> Tensor:
        loss = made(*arguments)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(torch, "randperm", permutation)
    monkeypatch.setattr(cflow_module, "step", step)
    config = cflow_module.CFlowConfig(
        coupling_blocks=2, epochs=4, sub_epochs=1, batch_size=4, rotation=0, idle_momentum=idle, reflect=False
    )
    method = cflow_module.CFlow(config, setup_of(Numbered(), SIZE))
    for level, decoder in enumerate(method.decoders):
        fill_decoder(decoder, 6000 + 500 * level)
    epochs: list[Epoch] = []
    test = images(100, 6)
    method.fit(TrainingData(images(0, 8), test, 0), epochs.append)
    torch_is = "gradients of zero, as on torch 1.8" if idle else "on current torch"
    difference = relative(losses[:21], theirs["losses_of_first_21_steps"])
    agree(SUBJECT, f"losses of the first 21 steps, {torch_is}", ORACLE, difference, 1e-5)
    means = [epoch.losses["loss"] for epoch in epochs]
    difference = relative(means, theirs["mean_loss_of_meta_epoch"])
    agree(SUBJECT, f"mean losses of 4 meta-epochs, {torch_is}", ORACLE, difference, 1e-5)
    decoders: Any = method.decoders
    blocks = [decoder.module_list[0] for decoder in decoders]
    differences = [
        against(w, b.subnet[0].weight) for w, b in zip(theirs["weights_after"], blocks, strict=True)
    ]
    agree(SUBJECT, f"weights after 168 steps, {torch_is}", ORACLE, max(differences), 1e-4)
    found = method.predict(test.batch(range(6)))
    highest = found.map.min()  # the authors' map is this constant higher
    difference = against(theirs["map"], found.map - highest)
    agree(SUBJECT, f"anomaly map of all levels, {torch_is}", ORACLE, difference, 1e-4)
    difference = relative(found.score - highest, theirs["scores"])
    agree(SUBJECT, f"image score, {torch_is}", ORACLE, difference, 1e-4)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_features_are_the_authors(name: str, values: dict[str, Any], agree: Agree) -> None:
    """The authors' ResNets pad by reflection."""
    network = timm.create_model(name, features_only=True, out_indices=(2, 3, 4))
    with torch.no_grad():
        fill(network, 7000)
    extractor = FeatureExtractor(network.eval())
    maps = FeatureMaps(setup_of(extractor, 64), name, STRIDES, 64, reflect=cflow_module.is_resnet(name))
    X = torch.floor(256 * filled((2, 3, 64, 64), 7900)).to(torch.uint8)
    found = [against(entry, y) for entry, y in zip(values[f"encoder_{name}"], maps(X), strict=True)]
    agree(SUBJECT, f"{name}: layers 2 to 4, padding by reflection", ORACLE, max(found), 1e-5)


def test_rotation_is_the_authors(values: dict[str, Any], agree: Agree) -> None:
    theirs = values["rotation"]
    assert theirs["degrees"] == [-cflow_module.CFlowConfig().rotation, cflow_module.CFlowConfig().rotation]
    image = torch.floor(256 * filled((48, 48, 3), 8000)).to(torch.uint8).permute(2, 0, 1)
    angles = torch.tensor(theirs["angles"])
    found = cflow_module.rotate(image.expand(len(angles), -1, -1, -1), angles)
    differ = sum(
        int((ours.flatten()[::29] != torch.tensor(values_)).sum())
        for ours, values_ in zip(found, theirs["images"], strict=True)
    )
    oracle = f"{ORACLE} (Pillow's rotation)"
    agree(SUBJECT, "rotated training images: pixels that differ of 1,195", oracle, differ, 2, unit="items")


def test_images_too_small_to_reflect_are_refused() -> None:
    config = cflow_module.CFlowConfig(coupling_blocks=1)
    with pytest.raises(ValueError, match="at least 64 pixels"):
        cflow_module.CFlow(config, setup_of(Numbered(), 32))
