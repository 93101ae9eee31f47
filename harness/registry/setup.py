"""What a method is given at its construction: networks, assets, a scratch folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.method import Backbone, Setup
from harness.registry.weights import Weights, load_features, load_network, load_state


@dataclass(frozen=True)
class Surroundings:
    """What a method finds where it is made, see :class:`harness.method.Setup`."""

    device: torch.device
    image_size: int
    seed: int
    scratch: Path


def make_setup(
    weights: Mapping[str, Weights],
    assets: Mapping[str, Path],
    around: Surroundings,
    handed: list[nn.Module] | None = None,
) -> Setup:
    """Returns what a method is given; only weights and assets that it declared are to be had.

    ``handed`` takes up the pretrained networks that the method asks for, whose parameters are counted later.
    """
    handed = [] if handed is None else handed
    device = around.device

    def features(backbone: str, strides: Sequence[int]) -> Backbone:
        extractor = load_features(_declared(weights, backbone), strides, device)
        handed.append(extractor)
        return extractor

    def network(backbone: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
        whole, mean, std = load_network(_declared(weights, backbone), device)
        handed.append(whole)
        return whole, mean, std

    def state(backbone: str) -> Mapping[str, Tensor] | None:
        return load_state(_declared(weights, backbone))

    def asset(name: str) -> Path:
        if name not in assets:
            raise RuntimeError(f"asset '{name}' was not declared in Method.needs")
        return assets[name]

    return Setup(
        device=device,
        image_size=around.image_size,
        seed=around.seed,
        load_network=network,
        load_features=features,
        asset=asset,
        scratch=around.scratch,
        load_state=state,
    )


def _declared(weights: Mapping[str, Weights], backbone: str) -> Weights:
    if backbone not in weights:
        raise RuntimeError(f"backbone '{backbone}' was not declared in Method.needs")
    return weights[backbone]
