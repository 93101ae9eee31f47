"""DFR against its authors' code, run on weights and images made by a formula; golden/dfr.md says how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from harness.method import Images, Setup, TrainingData
from harness.registry.setup import Surroundings, make_setup
from methods.dfr import DFR, DFRConfig, FeatureAutoencoder, vgg_maps
from tests.oracles.agreement import Agree, against, filled, golden, relative

AUTHORS = "the authors' code, YoungGod/DFR f2e2d4e"
LAYERS = [
    f"relu{stage}_{n}" for stage, count in ((1, 2), (2, 2), (3, 4), (4, 4)) for n in range(1, count + 1)
]
VALUES = golden("dfr")


def uniform(shape: torch.Size, key: float, gain: float) -> Tensor:
    """Weights about 0 whose products with n inputs have ``gain``² times their mean square."""
    return (filled(tuple(shape), key) - 0.5) * (2 * gain * (3 / shape[1:].numel()) ** 0.5)


def made(count: int, size: int, key: float) -> Tensor:
    """Images of squares with noise on them, uint8 ``[count, 3, size, size]``."""
    squares = filled((count, 3, size // 4, size // 4), key).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.floor(192 * squares + 64 * filled((count, 3, size, size), key + 1)).to(torch.uint8)


def fill(autoencoder: FeatureAutoencoder, statistics: bool = False) -> FeatureAutoencoder:
    """Sets its parameters by the formula, in the order of its layers; running statistics if asked for."""
    with torch.no_grad():
        convolutions = [m for m in autoencoder if isinstance(m, nn.Conv2d)]
        for k, convolution in enumerate(convolutions, 1):
            convolution.weight.copy_(uniform(convolution.weight.shape, 500 + k, 1.0))
            assert convolution.bias is not None
            convolution.bias.copy_(0.2 * (filled((len(convolution.bias),), 600 + k) - 0.5))
        for k, norm in enumerate((m for m in autoencoder if isinstance(m, nn.BatchNorm2d)), 1):
            n = (norm.num_features,)
            norm.weight.copy_(0.5 + filled(n, 700 + k))
            norm.bias.copy_(filled(n, 800 + k) - 0.5)
            if statistics:
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.copy_(0.2 * (filled(n, 900 + k) - 0.5))
                norm.running_var.copy_(0.5 + filled(n, 950 + k))
    return autoencoder


class Filled(DFR):
    """DFR whose autoencoder begins as the formula says."""

    def _build(self, c: int, d: int) -> FeatureAutoencoder:
        return fill(super()._build(c, d))


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """timm's VGG19 up to its last pooling, filled by the formula."""
    with torch.device("meta"):
        network = timm.create_model("vgg19")
    features = network.get_submodule("features").to_empty(device="cpu")
    with torch.no_grad():
        for k, layer in enumerate((m for m in features.children() if isinstance(m, nn.Conv2d)), 1):
            layer.weight.copy_(uniform(layer.weight.shape, k, 1.4))
            assert layer.bias is not None
            layer.bias.copy_(0.2 * (filled((len(layer.bias),), 100 + k) - 0.5))
    return network.requires_grad_(False).eval()


def setup(vgg: nn.Module, size: int, folder: Path) -> Setup:
    config = vgg.pretrained_cfg
    found = make_setup({}, {}, Surroundings(torch.device("cpu"), size, 0, folder))
    return replace(found, load_network=lambda _: (vgg, tuple(config["mean"]), tuple(config["std"])))


def test_maps_and_features(vgg: nn.Module, tmp_path: Path, agree: Agree) -> None:
    method = DFR(DFRConfig(), setup(vgg, 64, tmp_path))
    images = made(2, 64, 903)
    layers = list(vgg.get_submodule("features").children())
    found: Iterator[Tensor] = vgg_maps(layers, method._normalise(images))
    apart = max(against(VALUES[name], y) for name, y in zip(LAYERS, found, strict=True))
    agree("DFR", "the 12 maps of VGG19, padded by reflection", AUTHORS, apart, 1e-5)
    apart = against(VALUES["features"], method.features(images))
    agree("DFR", "regional features: resized, averaged", AUTHORS, apart, 1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_autoencoder(batch_norm: bool, agree: Agree) -> None:
    tag, label = ("", "") if batch_norm else ("_without_bn", ", first version (no BatchNorm)")
    autoencoder = fill(FeatureAutoencoder(47, 5, batch_norm), statistics=True).eval()
    assert [list(p.shape) for p in autoencoder.parameters()] == VALUES[f"shapes{tag}"]
    y = 3 * filled((2, 47, 16, 16), 40) - 1
    with torch.no_grad():
        found = autoencoder(y)
        apart = [against(VALUES[f"autoencoder{tag}"], found)]
        apart.append(against(VALUES[f"energy{tag}"], (found - y).square().mean(dim=1)))
        if batch_norm:
            apart.append(against(VALUES["autoencoder_training"], autoencoder.train()(y)))
    agree("DFR", f"autoencoder and its error per position{label}", AUTHORS, max(apart), 1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_map_and_score(batch_norm: bool, vgg: nn.Module, tmp_path: Path, agree: Agree) -> None:
    tag, label = ("", "") if batch_norm else ("_without_bn", ", first version (no BatchNorm)")
    method = DFR(DFRConfig(batch_norm=batch_norm), setup(vgg, 32, tmp_path))
    method.autoencoder = fill(FeatureAutoencoder(3456, VALUES["components"], batch_norm), statistics=True)
    found = method.predict(made(6, 32, 901)[4:])
    agree("DFR", f"map{label}", AUTHORS, against(VALUES[f"map_untrained{tag}"], found.map), 1e-5)
    apart = relative(found.score, VALUES[f"image_score_untrained{tag}"])
    agree("DFR", f"image score{label}", AUTHORS, apart, 1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_training(batch_norm: bool, vgg: nn.Module, tmp_path: Path, agree: Agree) -> None:
    tag, label = ("", "") if batch_norm else ("_without_bn", ", first version (no BatchNorm)")
    losses: list[float] = []
    method = Filled(DFRConfig(epochs=3, batch_norm=batch_norm), setup(vgg, 32, tmp_path))
    images = made(6, 32, 901)
    train = Images(images[:4].permute(0, 2, 3, 1).numpy())
    method.fit(TrainingData(train, train, 0), lambda epoch: losses.append(epoch.losses["mse"]))
    if batch_norm:
        apart = abs(int(method.state_dict()["6.weight"].shape[0]) - VALUES["components"])
        agree("DFR", "d, the principal components for 90 %", AUTHORS, apart, 0, "items")
    agree("DFR", f"losses of three steps{label}", AUTHORS, relative(losses, VALUES[f"losses{tag}"]), 1e-5)
    # A bias before BatchNorm has a gradient of rounding alone, which Adam makes a whole step of: their code
    # does not repeat its own map more closely than to 3e-5 when the same four images come in another order.
    found = method.predict(images[4:])
    apart, allowed = against(VALUES[f"map{tag}"], found.map), 1e-3 if batch_norm else 1e-5
    agree("DFR", f"map after three steps{label}", AUTHORS, apart, allowed)
    apart = relative(found.score, VALUES[f"image_score{tag}"])
    agree("DFR", f"image score after three steps{label}", AUTHORS, apart, allowed)
