"""Reverse Distillation held against its authors' code by values: golden/reverse_distillation.json."""

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

from methods.anomalib.reverse_distillation import (
    ReverseDistillation,
    ReverseDistillationConfig,
    Student,
)

SUBJECT, ORACLE = "Reverse Distillation", "hq-deng/RD4AD at 6554076"
SIZE = 64
CHANNELS = {"resnet18": (64, 128, 256), "wide_resnet50_2": (256, 512, 1024)}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return golden("reverse_distillation")


def fill(network: nn.Module, key: int) -> None:
    """Gives each tensor of the state dict, in its order, the next key, as the recipe says."""
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        u = np.resize(noise(min(tensor.numel(), 9973), key), tensor.numel())
        x = torch.from_numpy(u).reshape(tensor.shape)
        key += 1
        if tensor.ndim > 1:
            x = (x - 0.5) * 2 * (3 / tensor[0].numel()) ** 0.5 * 1.4
        elif name.endswith("running_mean"):
            x = 0.2 * (x - 0.5)
        elif name.endswith(("running_var", "weight")):
            x = x + 0.5
        else:
            x = x - 0.5
        tensor.copy_(x)


def features(name: str, count: int, key: int) -> list[Tensor]:
    shapes = [(count, c, SIZE // s, SIZE // s) for c, s in zip(CHANNELS[name], (4, 8, 16), strict=True)]
    return [3 * filled(shape, key + level) ** 2 for level, shape in enumerate(shapes)]


class Teacher(nn.Module):
    """Gives whatever feature maps are put into it."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps
        self.channels, self.reductions = tuple(m.shape[1] for m in maps), (4, 8, 16)

    def forward(self, _: Tensor) -> list[Tensor]:
        return self.maps


def build(name: str) -> tuple[ReverseDistillation, Teacher]:
    teacher: Any = Teacher(features(name, 2, 3000))

    def none(_: str) -> Any:
        raise AssertionError

    cpu = torch.device("cpu")
    setup = Setup(
        cpu, SIZE, 0, load_network=none, load_features=lambda *_: teacher, asset=none, scratch=Path()
    )
    with torch.device("meta"):  # filling follows, and drawing 130 million weights takes seconds
        empty = Student(name, list(teacher.channels))
    method = ReverseDistillation(ReverseDistillationConfig(backbone="resnet18"), setup)
    method.student = empty.to_empty(device="cpu").eval()
    with torch.no_grad():
        fill(method.student.bottleneck, 1000)
        fill(method.student.decoder, 2000)
    return method, teacher


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_networks_maps_and_scores_are_the_authors(name: str, values: dict[str, Any], agree: Agree) -> None:
    method, teacher = build(name)
    theirs = values[name]
    with torch.no_grad():
        code = method.student.bottleneck(teacher.maps)
        restored = method.student(teacher.maps)
    agree(SUBJECT, f"{name}: bottleneck", ORACLE, against(theirs["bottleneck_eval"], code), 1e-5)
    differences = [against(entry, y) for entry, y in zip(theirs["decoder_eval"], restored, strict=True)]
    agree(SUBJECT, f"{name}: decoder's three maps", ORACLE, max(differences), 1e-5)
    with torch.no_grad():
        loss = float(method.loss(teacher.maps))
        unblurred = method.unblurred(teacher.maps)
    agree(SUBJECT, f"{name}: loss", ORACLE, relative(loss, theirs["loss_eval"]), 1e-6)
    agree(SUBJECT, f"{name}: map before the blur", ORACLE, against(theirs["map"], unblurred), 1e-5)
    found = method.predict(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8))
    agree(
        SUBJECT,
        f"{name}: map after the blur, borders too",
        ORACLE,
        against(theirs["map_blurred"], found.map),
        1e-5,
    )
    agree(SUBJECT, f"{name}: image score", ORACLE, relative(found.score, theirs["scores"]), 1e-5)


def test_first_steps_are_the_authors(values: dict[str, Any], agree: Agree) -> None:
    method, _ = build("resnet18")
    method.student.train()
    optimiser = method.optimiser()
    losses = [float(step(optimiser, method.loss(features("resnet18", 4, 3100 + 10 * s)))) for s in range(3)]
    theirs = values["resnet18"]["losses_of_first_steps"]
    agree(SUBJECT, "resnet18: loss of the first step", ORACLE, relative(losses[:1], theirs[:1]), 1e-5)
    # Adam divides gradients by their size, roundings too: kernels for AVX2 and for AVX-512 differ by 3e-4.
    agree(SUBJECT, "resnet18: losses of the next 2 steps", ORACLE, relative(losses[1:], theirs[1:]), 1e-3)


@pytest.mark.parametrize("name", ["resnet34", "wide_resnet50_2"])
def test_every_weight_has_the_authors_shape(name: str, values: dict[str, Any], agree: Agree) -> None:
    """What a parameter count cannot see: anomalib's own bottleneck is half as wide, or a block short."""
    with torch.device("meta"):
        student = Student(name, [])
    tensors = [*student.bottleneck.state_dict().values(), *student.decoder.state_dict().values()]
    ours = [list(tensor.shape) for tensor in tensors if tensor.ndim > 1]
    theirs = values[name]["shapes"]
    differ = abs(len(ours) - len(theirs)) + sum(a != b for a, b in zip(ours, theirs, strict=False))
    agree(SUBJECT, f"{name}: shapes of {len(theirs)} weights", ORACLE, differ, 0, unit="items")
