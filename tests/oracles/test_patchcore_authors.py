"""``patchcore[variant=authors]`` against what the authors' published code gives, by stages and as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.method import Images, Setup, TrainingData
from methods import patchcore_authors
from methods.anomalib.patchcore import PatchCore, PatchCoreConfig
from methods.blur import blur, gaussian_kernel
from methods.patchcore_authors import SIGMA, AuthorsMemory, patches, pool
from tests.oracles.agreement import Agree, against, filled, golden, relative

GOLDEN = golden("patchcore_authors")
ORACLE = "amazon-science/patchcore-inspection fcaa92f"
SUBJECT = "patchcore[variant=authors]"
WIDTHS = {"wide": (512, 1024), "narrow": (40, 112)}
SIZE = 72
CPU = torch.device("cpu")


class TwoLayers:
    """Two convolutions filled by the formula, in a backbone's place."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reductions = (8, 16)

    def __init__(self, channels: tuple[int, int]) -> None:
        self.channels = channels
        a, b = channels
        self._weights = [self._filled((a, 3, 8, 8), 1), self._filled((b, a, 2, 2), 2)]
        self._biases = [0.2 * (filled((a,), 101) - 0.5), 0.2 * (filled((b,), 102) - 0.5)]

    @staticmethod
    def _filled(shape: tuple[int, ...], key: int) -> Tensor:
        return (filled(shape, key) - 0.5) * 2 * float(np.sqrt(3 / np.prod(shape[1:]))) * 1.4

    def __call__(self, x: Tensor) -> list[Tensor]:
        fine = F.conv2d(x, self._weights[0], self._biases[0], stride=8).relu()
        return [fine, F.conv2d(fine, self._weights[1], self._biases[1], stride=2).relu()]


def images(count: int, key: int) -> Tensor:
    return (256 * filled((count, 3, SIZE, SIZE), key)).floor().to(torch.uint8)


def queries() -> Tensor:
    found = images(2, 11)
    found[1, :, 20:36, 20:36] = 255
    return found


def setup(channels: tuple[int, int]) -> Setup:
    def none(_: Any) -> Any:
        raise AssertionError("nothing but feature maps is needed here")

    backbone = TwoLayers(channels)
    return Setup(CPU, SIZE, 0, none, lambda *_: backbone, none, Path())


def fitted(monkeypatch: pytest.MonkeyPatch, neighbours: int = 1) -> PatchCore:
    """Fits on the recipe's images; the two random draws are the recipe's."""
    projection = ((filled((128, 1024), 20) - 0.5) * 2 / 1024**0.5).T
    monkeypatch.setattr(patchcore_authors, "random_projection", lambda *_: projection)
    monkeypatch.setattr(patchcore_authors, "starting_points", lambda *_: torch.tensor(GOLDEN["starts"]))
    config = PatchCoreConfig.model_validate(
        {"variant": "authors", "center_crop": 1, "coreset": 0.1, "neighbours": neighbours}
    )
    method = PatchCore(config, setup(WIDTHS["wide"]))
    train = Images(images(4, 10).permute(0, 2, 3, 1).numpy())
    method.fit(TrainingData(train, train, 0), lambda _: None)
    return method


def feature_maps(width: str) -> list[Tensor]:
    method = PatchCore(PatchCoreConfig(variant="authors", center_crop=1), setup(WIDTHS[width]))
    return method._maps(queries())


@pytest.mark.parametrize("width", WIDTHS)
def test_patches_and_their_values(width: str, agree: Agree) -> None:
    maps = feature_maps(width)
    for name, features in zip(("layer2", "layer3"), maps, strict=True):
        assert list(features.shape[-2:]) == GOLDEN[f"{width}_grid_{name}"]
        cut = patches(features).unflatten(2, (-1, 3, 3))
        check = f"3×3 patches of {name}, {features.shape[1]} channels"
        agree(SUBJECT, check, ORACLE, against(GOLDEN[f"{width}_patches_{name}"], cut), 1e-5)
    pooled = pool(maps).flatten(0, 2)
    check = f"1,024 values of each layer, {' and '.join(map(str, WIDTHS[width]))} channels"
    agree(SUBJECT, check, ORACLE, against(GOLDEN[f"{width}_pooled"], pooled), 1e-5)
    embedding = AuthorsMemory(1, CPU).embed(maps).flatten(0, 2)
    check = f"1,024 values of all layers, {' and '.join(map(str, WIDTHS[width]))} channels"
    agree(SUBJECT, check, ORACLE, against(GOLDEN[f"{width}_embedding"], embedding), 1e-5)


def test_the_coreset(monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    method = fitted(monkeypatch)
    rows = method._embed(images(4, 10)).flatten(0, 2)
    agree(SUBJECT, "embedded training images", ORACLE, against(GOLDEN["train_embedding"], rows), 1e-5)
    projected = rows @ patchcore_authors.random_projection(1024, torch.Generator())
    agree(SUBJECT, "projection to 128 values", ORACLE, against(GOLDEN["projected"], projected), 1e-5)
    picks = AuthorsMemory(1, CPU).select(rows, len(GOLDEN["coreset"]), torch.Generator())
    wrong = sum(a != b for a, b in zip(picks.tolist(), GOLDEN["coreset"], strict=True))
    agree(SUBJECT, "32 picks of the coreset, given the draws", ORACLE, wrong, 0, "items")
    assert torch.equal(method.state_dict()["memory_bank"], rows[picks])


def test_scores_and_maps(monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    method = fitted(monkeypatch)
    rows = method._embed(queries()).flatten(0, 2)
    assert isinstance(method._memory, AuthorsMemory)
    distances = method._memory.distances(rows)
    agree(
        SUBJECT, "squared distances of patches", ORACLE, against(GOLDEN["squared_distances"], distances), 1e-5
    )
    found = method.predict(queries())
    agree(SUBJECT, "image scores", ORACLE, relative(found.score, GOLDEN["image_scores"]), 1e-5)
    agree(SUBJECT, "maps after the blur", ORACLE, against(GOLDEN["maps"], found.map), 1e-5)
    agree(SUBJECT, "the maps' first row", ORACLE, against(GOLDEN["map_top_row"], found.map[:, 0]), 1e-5)


def test_the_mean_over_three_neighbours(monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    found = fitted(monkeypatch, neighbours=3).predict(queries())
    expected = GOLDEN["image_scores_3_neighbours"]
    agree(SUBJECT, "image scores, neighbours=3", ORACLE, relative(found.score, expected), 1e-5)
    difference = against(GOLDEN["maps_3_neighbours"], found.map)
    agree(SUBJECT, "maps, neighbours=3", ORACLE, difference, 1e-5)


def test_upsampling_and_blur(agree: Agree) -> None:
    def blurred(grid: Tensor, size: int) -> Tensor:
        maps = F.interpolate(grid[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
        return blur(maps, gaussian_kernel(SIGMA), mirror="at the edge")

    large = blurred(filled((2, 28, 28), 30), 224)
    edges = torch.stack([*large[:, 0], *large[:, :, 0]])
    small = blurred(filled((1, 3, 3), 31), 12)
    agree(SUBJECT, "map of 224 px from 28×28", ORACLE, against(GOLDEN["segmentor_224"], large), 1e-5)
    agree(SUBJECT, "its edges", ORACLE, against(GOLDEN["segmentor_224_edges"], edges), 1e-5)
    agree(SUBJECT, "map narrower than the blur", ORACLE, against(GOLDEN["segmentor_12"], small), 1e-5)


def test_the_draws_are_of_the_kind_that_the_code_makes(agree: Agree) -> None:
    torch.manual_seed(3)
    theirs = nn.Linear(1024, 128, bias=False).weight.detach().T
    ours = patchcore_authors.random_projection(1024, torch.Generator().manual_seed(3))
    agree(
        SUBJECT, "random projection of a seed", "torch.nn.Linear's initial weights", relative(ours, theirs), 0
    )
    starts = patchcore_authors.starting_points(324, torch.Generator().manual_seed(0))
    assert len(set(starts.tolist())) == 10 and starts.max() < 324
    assert len(patchcore_authors.starting_points(4, torch.Generator().manual_seed(0))) == 4
