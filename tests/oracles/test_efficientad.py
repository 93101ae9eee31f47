"""EfficientAD against its best-known reimplementation; its authors published no code."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.method import Images, Setup
from methods.anomalib.efficientad import EfficientAD, EfficientADConfig
from tests.oracles.agreement import Agree, against, filled, golden, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

ORACLE = "nelson1425/EfficientAD fcab514"
CHANNELS = 16
SIDE = 256
GOLDEN = golden("efficientad")


def fill(network: nn.Module, key: int) -> None:
    """Fills weights and biases in their order, as ``golden/efficientad.md`` says."""
    for number, parameter in enumerate(network.parameters(), key + 1):
        x = filled(tuple(parameter.shape), number) - 0.5
        bound = (3 / math.prod(parameter.shape[1:])) ** 0.5 * 2 * 1.4 if parameter.ndim == 4 else 0.2
        parameter.data.copy_(x * bound)


@cache
def image(key: float) -> Tensor:
    """uint8 ``[3, 256, 256]``: squares under noise."""
    squares = F.interpolate(filled((1, 3, 8, 8), key + 0.5), size=SIDE, mode="nearest")[0]
    mixed = 0.3 * filled((3, SIDE, SIDE), key) + 0.7 * squares
    return (256 * mixed).floor().clamp(0, 255).to(torch.uint8)


def images(*keys: float) -> Images:
    return Images(np.stack([image(key).permute(1, 2, 0).numpy() for key in keys]))


@pytest.fixture
def method() -> EfficientAD:
    """Ours with the weights of the golden values."""

    def none(*_: Any) -> Any:
        raise AssertionError("neither weights nor images are needed here")

    setup = Setup(torch.device("cpu"), SIDE, 0, none, none, none, Path())
    found = EfficientAD(EfficientADConfig(teacher="distilled", channels=CHANNELS, quantiles="cells"), setup)
    fill(found.model.teacher, 100)
    fill(found.model.student, 200)
    fill(found.model.ae, 300)
    return found


def statistics(method: EfficientAD) -> None:
    """Gives ours the oracle's channel statistics."""
    for name in ("mean", "std"):
        values = torch.tensor(GOLDEN[f"teacher_{name}"]["values"]).view(1, CHANNELS, 1, 1)
        method.model.mean_std[name] = values


@torch.no_grad()
def test_networks(method: EfficientAD, agree: Agree) -> None:
    from anomalib.models.image.efficient_ad import torch_model as theirs

    X = filled((1, 3, 64, 64), 600)
    small = against(GOLDEN["pdn_small_64"], method.model.teacher(X))
    agree("EfficientAD", "patch description network S", ORACLE, small, 1e-5)
    medium = theirs.MediumPatchDescriptionNetwork(CHANNELS)
    fill(medium, 400)
    agree(
        "EfficientAD",
        "patch description network M",
        ORACLE,
        against(GOLDEN["pdn_medium_64"], medium(X)),
        1e-5,
    )
    method.model.eval()
    found = method.model.ae(image(601)[None].float() / 255, (SIDE, SIDE))
    agree("EfficientAD", "autoencoder", ORACLE, against(GOLDEN["autoencoder_eval"], found), 1e-5)
    with torch.device("meta"):
        whole = {
            "small_384": theirs.SmallPatchDescriptionNetwork(384),
            "small_768": theirs.SmallPatchDescriptionNetwork(768),
            "medium_384": theirs.MediumPatchDescriptionNetwork(384),
            "medium_768": theirs.MediumPatchDescriptionNetwork(768),
            "autoencoder_384": theirs.AutoEncoder(384, padding=False),
        }
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in whole.items()}
    apart = max(abs(counts[name] - count) for name, count in GOLDEN["parameters"].items())
    agree("EfficientAD", "number of parameters, 384 channels", ORACLE, apart, 0, "parameters")


def test_channel_statistics(method: EfficientAD, agree: Agree) -> None:
    method._standardise(images(601, 602))
    apart = [against(GOLDEN[f"teacher_{name}"], method.model.mean_std[name]) for name in ("mean", "std")]
    agree("EfficientAD", "mean and deviation of the teacher's channels", ORACLE, max(apart), 1e-5)


def test_quantiles(method: EfficientAD, agree: Agree) -> None:
    statistics(method)
    method._calibrate(images(601, 602))
    found = [float(method.model.quantiles[name].detach()) for name in ("qa_st", "qb_st", "qa_ae", "qb_ae")]
    agree(
        "EfficientAD", "quantiles of the validation maps", ORACLE, relative(found, GOLDEN["quantiles"]), 1e-5
    )


def test_maps_and_scores(method: EfficientAD, agree: Agree) -> None:
    statistics(method)
    for name, value in zip(("qa_st", "qb_st", "qa_ae", "qb_ae"), GOLDEN["quantiles"], strict=True):
        method.model.quantiles[name] = torch.tensor(value)
    method.model.eval()
    batch = image(603)[None]
    with torch.no_grad():
        cells = method._cells(batch)
    for name, part in (("student and teacher", "st"), ("autoencoder and student", "ae")):
        apart = against(GOLDEN[f"map_{part}_raw"], cells[part][:, None])
        agree("EfficientAD", f"map of {name}, cells", ORACLE, apart, 1e-5)
    method._cells = lambda _: cells  # type: ignore[method-assign]
    found = method.predict(batch)
    apart = against(GOLDEN["map"], found.map[0])
    agree("EfficientAD", "map, normalised, padded, enlarged", ORACLE, apart, 1e-5)
    agree("EfficientAD", "image score", ORACLE, relative(found.score, GOLDEN["scores"][:1]), 1e-5)


@torch.no_grad()
def test_losses_of_a_step(method: EfficientAD, agree: Agree) -> None:
    statistics(method)
    method.model.train()
    for module in method.model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    method.model.choose_random_aug_image = lambda _: image(604)[None].float() / 255
    terms = method.losses(image(601)[None].float() / 255, filled((1, 3, SIDE, SIDE), 605))
    theirs = GOLDEN["losses"]
    apart = [relative([float(terms[name])], [theirs[name]]) for name in ("st", "ae", "stae")]
    apart.append(relative([float(sum(terms.values()))], [theirs["total"]]))
    agree("EfficientAD", "losses of a step, colours given", ORACLE, max(apart), 1e-5)
