"""PaDiM against its best-known reimplementation, on weights and images made by a formula: golden/padim.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.method import Images, TrainingData
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import RANDOM, Weights, load_features
from methods.anomalib.padim import PaDiM, PaDiMConfig
from tests.oracles.agreement import Agree, against, filled, golden, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

THEIRS = "xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master 616004b"
VALUES = golden("padim")
CPU = torch.device("cpu")
TRAIN, SIZE, EDGE = 8, 128, 8


def fill(network: nn.Module) -> None:
    """Sets weights and statistics by the formula, in the order of the layers."""
    with torch.no_grad():
        for k, conv in enumerate((m for m in network.modules() if isinstance(m, nn.Conv2d)), 1):
            f = conv.weight.shape[1:].numel()
            conv.weight.copy_((filled(tuple(conv.weight.shape), k) - 0.5) * (2.8 * (3 / f) ** 0.5))
        for k, norm in enumerate((m for m in network.modules() if isinstance(m, nn.BatchNorm2d)), 1):
            n = (norm.num_features,)
            assert norm.running_mean is not None and norm.running_var is not None
            norm.weight.copy_(0.5 + filled(n, 100 + k))
            norm.bias.copy_(0.5 * (filled(n, 200 + k) - 0.5))
            norm.running_mean.copy_(0.2 * (filled(n, 300 + k) - 0.5))
            norm.running_var.copy_(0.5 + filled(n, 400 + k))


def made() -> Tensor:
    """Eight training and three test images of squares with noise, the second test image with a white one."""
    shape = (TRAIN + 3, 3, SIZE // 4, SIZE // 4)
    squares = filled(shape, 911).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = torch.floor(192 * squares + 64 * filled((TRAIN + 3, 3, SIZE, SIZE), 912)).to(torch.uint8)
    images[TRAIN + 1, :, 40:60, 60:80] = 255
    return images


def inner(maps: Tensor) -> Tensor:
    """What lies in the centre crop."""
    return maps[:, EDGE:-EDGE, EDGE:-EDGE]


def test_from_images_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    def features(name: str, strides: Sequence[int]) -> Any:
        extractor = load_features(Weights(name, RANDOM), strides, CPU)
        fill(extractor.network)
        return extractor

    chosen = VALUES["channels"]
    rest = sorted(set(range(448)) - set(chosen))
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.tensor([*chosen, *rest])[:n])
    setup = replace(make_setup({}, {}, Surroundings(CPU, SIZE, 0, tmp_path)), load_features=features)
    # Theirs adds 0.01 to the diagonal; ours a further 1e-5, as anomalib does.
    method = PaDiM(PaDiMConfig(backbone="resnet18", regularisation=0.01 - 1e-5), setup)
    images = made()
    train = Images(images[:TRAIN].permute(0, 2, 3, 1).numpy())
    covariances: list[Tensor] = []
    decompose = torch.linalg.cholesky

    def recorded(matrices: Tensor) -> Tensor:
        covariances.append(matrices)
        return decompose(matrices)

    monkeypatch.setattr(torch.linalg, "cholesky", recorded)
    method.fit(TrainingData(train, train, 0), lambda _: None)
    test = images[TRAIN:]
    apart = against(VALUES["embedding"], method._embed(test))
    agree("PaDiM", "chosen channels of three layers", THEIRS, apart, 1e-5)
    agree("PaDiM", "means", THEIRS, against(VALUES["mean"], method.state_dict()["mean"]), 1e-5)
    covariance = torch.cat(covariances).permute(1, 2, 0)
    agree("PaDiM", "covariances with ε", THEIRS, against(VALUES["covariance"], covariance), 1e-4)

    # Eight images leave 92 of 100 directions to ε alone: both invert such matrices in float32.
    found = method.predict(test)
    core = inner(found.map)[:, 16:-16, 16:-16]
    agree(
        "PaDiM", "blurred map, 16 pixels from its border", THEIRS, against(VALUES["map_inside"], core), 3e-3
    )
    agree("PaDiM", "image score", THEIRS, relative(found.score, VALUES["score"]), 3e-3)
    # scipy's blur repeats the outermost pixel where ours and anomalib's begin with the next one.
    apart = against(VALUES["map"], inner(found.map))
    agree("PaDiM", "blurred map with its border, reflected otherwise", THEIRS, apart, 0.01)

    monkeypatch.setattr("methods.anomalib.padim.blur", lambda maps, _: maps)
    apart = against(VALUES["map_before_blur"], inner(method.predict(test).map))
    agree("PaDiM", "distances brought to the image's size", THEIRS, apart, 3e-3)
