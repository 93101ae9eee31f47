"""Folded batch normalisation gives what the network gave."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from methods.folding import fold_batch_norms


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for norm in norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0, 0.1, generator=generator)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_the_same_features_without_a_batch_norm(backbone: str) -> None:
    network = timm.create_model(backbone, features_only=True, out_indices=(1, 2)).eval()
    randomise(network)
    X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    folded = copy.deepcopy(network)
    assert fold_batch_norms(folded, X[:1])
    assert norms(network)
    assert not norms(folded)
    with torch.no_grad():
        for ours, theirs in zip(folded(X), network(X), strict=True):
            assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


class Shared(nn.Module):
    """A convolution whose output is also used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.conv(x)
        return [y, self.norm(y)]


class Twice(Shared):
    """A convolution and a normalisation that are both called twice."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(x)), self.norm(self.conv(x + 1))]


@pytest.mark.parametrize("kind", [Shared, Twice])
def test_what_cannot_be_folded_stays(kind: type[Shared]) -> None:
    network = kind().eval()
    randomise(network)
    X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    folded = copy.deepcopy(network)
    fold_batch_norms(folded, X)
    assert norms(folded)
    with torch.no_grad():
        for ours, theirs in zip(folded(X), network(X), strict=True):
            assert torch.equal(ours, theirs)
