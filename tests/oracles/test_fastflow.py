"""FastFlow held against its best-known reimplementation by values: golden/fastflow.json.

Its authors published no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.method import Setup
from methods.anomalib.base import step
from tests.oracles.agreement import Agree, against, filled, golden, noise, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

from methods.anomalib.fastflow import FastFlow, FastFlowConfig, Flows

SUBJECT, ORACLE = "FastFlow", "gathierry/FastFlow at 2cf1f2f (the authors published no code)"
SIZE, CHANNELS, STRIDES = 64, (8, 12, 18), (4, 8, 16)


class Numbered(nn.Module):
    """A backbone whose images are numbers, and whose feature maps are made by a formula from them."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    channels, reductions = CHANNELS, STRIDES

    def forward(self, x: Tensor) -> list[Tensor]:
        numbers = [round(float(v) * 255) for v in x[:, 0, 0, 0]]
        return [
            torch.stack([self.one(n, level, (c, SIZE // s, SIZE // s)) for n in numbers])
            for level, (c, s) in enumerate(zip(CHANNELS, STRIDES, strict=True))
        ]

    def one(self, number: int, level: int, shape: tuple[int, ...]) -> Tensor:
        key = (9000 if number < 100 else 9500) + 20 * level + number % 100
        return 2 * filled(shape, key) ** 2


def images(*numbers: int) -> Tensor:
    return torch.stack([torch.full((3, SIZE, SIZE), n, dtype=torch.uint8) for n in numbers])


def fill(flows: Flows, key: int = 9100) -> None:
    """As golden/fastflow.md says."""
    for level, (norm, flow) in enumerate(zip(flows.norms, flows.fast_flow_blocks, strict=True)):
        k = key + 300 * level
        assert isinstance(norm, nn.LayerNorm)
        norm.weight.copy_(0.5 + filled(tuple(norm.weight.shape), k))
        norm.bias.copy_(0.4 * (filled(tuple(norm.bias.shape), k + 1) - 0.5))
        blocks: Any = flow.module_list
        for i, block in enumerate(blocks):
            b, n = k + 10 + 20 * i, block.in_channels
            block.global_scale.copy_(9.986512 + filled((1, n, 1, 1), b) - 0.5)
            block.global_offset.copy_(0.2 * (filled((1, n, 1, 1), b + 1) - 0.5))
            order = torch.from_numpy(np.argsort(noise(n, b + 2), kind="stable"))
            permutation = torch.eye(n)[order]
            block.w_perm.copy_(permutation[..., None, None])
            block.w_perm_inv.copy_(permutation.T[..., None, None])
            for j, layer in enumerate((block.subnet[0], block.subnet[2])):
                spread = 2 * (3 / layer.weight[0].numel()) ** 0.5
                layer.weight.copy_((filled(tuple(layer.weight.shape), b + 4 + 2 * j) - 0.5) * spread)
                layer.bias.copy_(0.4 * (filled(tuple(layer.bias.shape), b + 5 + 2 * j) - 0.5))


def build(conv3x3_only: bool) -> FastFlow:
    def none(_: str) -> Any:
        raise AssertionError

    backbone: Any = Numbered()
    setup = Setup(
        torch.device("cpu"),
        SIZE,
        0,
        load_network=none,
        load_features=lambda *_: backbone,
        asset=none,
        scratch=Path(),
    )
    method = FastFlow(FastFlowConfig(conv3x3_only=conv3x3_only), setup)
    with torch.no_grad():
        fill(method.flows)
    return method


@pytest.mark.parametrize("variant", ["alternating", "conv3x3_only"])
def test_flows_loss_maps_and_first_steps_are_gathierrys(variant: str, agree: Agree) -> None:
    theirs = golden("fastflow")[variant]
    method = build(variant == "conv3x3_only")
    kernels = f"{variant.replace('_', ' ')} kernels"
    trained = sum(p.numel() for p in method.flows.parameters() if p.requires_grad)
    agree(SUBJECT, f"{kernels}: trained parameters", ORACLE, abs(trained - theirs["trainable"]), 0, "items")
    maps = method.maps(images(100, 101))
    with torch.no_grad():
        hidden, jacobians = method.flows(maps)
        loss = float(method.loss(maps))
    differences = [against(entry, z) for entry, z in zip(theirs["hidden"], hidden, strict=True)]
    agree(SUBJECT, f"{kernels}: hidden variables of 3 levels", ORACLE, max(differences), 1e-5)
    difference = relative(torch.stack(jacobians), theirs["log_determinants"])
    agree(SUBJECT, f"{kernels}: log-determinants", ORACLE, difference, 1e-5)
    agree(SUBJECT, f"{kernels}: loss", ORACLE, relative(loss, theirs["loss"]), 1e-6)
    found = method.predict(images(100, 101)).map
    agree(SUBJECT, f"{kernels}: anomaly map", ORACLE, against(theirs["map"], found[:, None]), 1e-5)

    method.flows.train()
    optimiser = method.optimiser()
    group = optimiser.param_groups[0]
    settings = {name: list(v) if isinstance(v := group[name], tuple) else v for name in theirs["optimiser"]}
    assert settings == theirs["optimiser"]
    batches = [images(0, 1, 2, 3), images(4, 5, 6, 7)] * 2
    losses = [float(step(optimiser, method.loss(method.maps(batch)))) for batch in batches]
    difference = relative(losses, theirs["losses_of_first_steps"])
    agree(SUBJECT, f"{kernels}: losses of the first 4 steps of Adam", ORACLE, difference, 1e-5)
    method.flows.eval()
    found_after = method.predict(images(100, 101, 102))
    difference = against(theirs["map_after"], found_after.map[:, None])
    agree(SUBJECT, f"{kernels}: anomaly map after them", ORACLE, difference, 1e-4)
    difference = relative(found_after.score, theirs["maxima_after"])
    agree(SUBJECT, f"{kernels}: image score, the map's maximum", ORACLE, difference, 1e-4)
