"""Features that are kept: where, and that they are the same everywhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from methods import features
from methods.features import FrozenFeatures, Place, find_place
from tests.methods.test_methods import images, setup

PLACES: tuple[Place, ...] = (
    "the device's memory",
    "the host's memory",
    "a file",
    "nowhere, computed for every batch",
)


def extract(images: Tensor) -> Tensor:
    return images.float().mean(dim=1).flatten(1)


@pytest.mark.parametrize("place", PLACES)
def test_features_are_the_same_wherever_they_are_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "find_place", lambda *_: place)
    some, given = images(21), replace(setup(), scratch=tmp_path, choices={})
    found = FrozenFeatures(some, extract, given, batch_size=4)
    for rows in ([20, 3, 3], range(4, 8)):
        assert torch.equal(found.batch(rows), extract(some.batch(rows)))
    assert len(found) == 21
    assert given.choices == {"features": place}
    assert bool(list(tmp_path.iterdir())) == (place == "a file")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_file_keeps_any_type(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "find_place", lambda *_: "a file")
    some = images(5)
    found = FrozenFeatures(some, lambda x: extract(x).to(dtype), replace(setup(), scratch=tmp_path))
    assert torch.equal(found.batch([4, 0]), extract(some.batch([4, 0])).to(dtype))


def test_the_place_follows_from_the_room_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    free = {"gpu": 24 * gib, "disk": 100 * gib}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free["gpu"], 80 * gib))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free["disk"]))
    cpu = replace(setup(), scratch=tmp_path)
    gpu = replace(cpu, device=torch.device("cuda:0"))
    assert find_place(gib, cpu) == "the host's memory"
    assert find_place(20 * gib, cpu) == "a file"
    assert find_place(30 * gib, cpu) == "nowhere, computed for every batch"
    assert find_place(10 * gib, gpu) == "the device's memory"
    assert find_place(15 * gib, gpu) == "nowhere, computed for every batch"
    free["gpu"] = 80 * gib
    assert find_place(15 * gib, gpu) == "the device's memory"
    assert find_place(25 * gib, gpu) == "nowhere, computed for every batch"
    free["gpu"] = gib
    assert find_place(gib, gpu) == "the host's memory"
