"""DRAEM against its authors' code: networks, losses, first steps, map, score, and the synthetic anomalies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.method import Setup
from methods.anomalib import synthetic
from methods.anomalib.draem import DRAEM, DRAEMConfig, _initialise, focal_loss, ssim_loss
from methods.anomalib.synthetic import Draw, Pixels, perlin_noise, rotated
from tests.oracles.agreement import Agree, against, filled, golden, noise, relative

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

AUTHORS = "VitjanZ/DRAEM 2dbf673"
IMGAUG = f"{AUTHORS} with imgaug 0.4.0"
SIDE = 64
GOLDEN = golden("draem")


def fill(network: nn.Module, key: int) -> None:
    """Fills weights and statistics in their order, as ``golden/draem.md`` says."""
    state = network.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    for number, name in enumerate(names, key + 1):
        value = state[name]
        x = filled(tuple(value.shape), number)
        owner = state[name.rpartition(".")[0] + ".weight"]
        if value.ndim == 4:
            x = (x - 0.5) * 2 * (3 / math.prod(value.shape[1:])) ** 0.5 * 1.4
        elif name.endswith("running_var") or (name.endswith("weight") and owner.ndim == 1):
            x = 0.5 + x
        elif name.endswith("running_mean") or owner.ndim == 4:
            x = 0.2 * (x - 0.5)
        else:
            x = x - 0.5
        value.copy_(x)


@pytest.fixture
def method() -> DRAEM:
    """Ours with the weights of the golden values; the authors show the reconstruction before the image."""

    def none(*_: Any) -> Any:
        raise AssertionError("neither weights nor textures are needed here")

    setup = Setup(torch.device("cpu"), SIDE, 0, none, none, none, Path())
    found = DRAEM(DRAEMConfig(width=8), setup)
    fill(found.model.reconstructive_subnetwork, 1000)
    fill(found.model.discriminative_subnetwork, 2000)
    first = found.model.discriminative_subnetwork.encoder_segment.block1[0]
    first.weight.data = first.weight.data[:, [3, 4, 5, 0, 1, 2]].clone()
    return found


def batch() -> tuple[Tensor, Tensor, Tensor]:
    X, T = ((256 * filled((2, 3, SIDE, SIDE), key)).floor() / 255 for key in (3001, 3002))
    mask = (filled((2, 1, SIDE, SIDE), 3003) > 0.7).float()
    return X, X * (1 - mask) + T * mask, mask


def texture() -> Pixels:
    """Smooth waves under noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = np.stack(
        [90 + 60 * np.sin(x / 5), 120 + 50 * np.cos(y / 7), 60 + 40 * np.sin((x + y) / 9)], axis=-1
    )
    uneven = noise(SIDE * SIDE * 3, 3200).reshape(SIDE, SIDE, 3).astype(np.float64)
    return np.clip(np.floor(waves + 40 * (uneven - 0.5)), 0, 255).astype(np.uint8)


def angles(cells: list[int], key: int) -> NDArray[np.float64]:
    shape = (cells[0] + 1, cells[1] + 1)
    return 2 * math.pi * noise(math.prod(shape), key).reshape(shape).astype(np.float64)


def test_full_networks_have_as_many_parameters(agree: Agree) -> None:
    from anomalib.models.image.draem.torch_model import DraemModel

    with torch.device("meta"):
        model = DraemModel()
    parts = (model.reconstructive_subnetwork, model.discriminative_subnetwork)
    found = [sum(p.numel() for p in part.parameters()) for part in parts]
    apart = np.abs(np.subtract(found, GOLDEN["parameters_at_widths_128_and_64"])).max()
    agree("DRAEM", "number of parameters, full width", AUTHORS, apart, 0, "parameters")
    assert DRAEMConfig().width == 128


def test_initial_weights(method: DRAEM, agree: Agree) -> None:
    parts = (method.model.reconstructive_subnetwork, method.model.discriminative_subnetwork)
    apart = []
    for part, theirs in zip(parts, GOLDEN["initial_weights"].values(), strict=True):
        for parameter in part.parameters():
            parameter.data.fill_(7.0)  # what nothing sets stays as it was: biases of convolutions
        torch.manual_seed(0)
        part.apply(_initialise)
        apart.append(against(theirs, torch.cat([p.flatten() for p in part.parameters()])))
    agree("DRAEM", "initial weights of one seed", AUTHORS, max(apart), 1e-5)


@torch.no_grad()
def test_networks_map_and_score(method: DRAEM, agree: Agree) -> None:
    X, _, _ = batch()
    method.model.eval()
    found = against(GOLDEN["reconstruction_eval"], method.model.reconstructive_subnetwork(X))
    agree("DRAEM", "reconstruction", AUTHORS, found, 1e-5)
    predicted = method.predict((X * 255).round().to(torch.uint8))
    agree("DRAEM", "map", AUTHORS, against(GOLDEN["map_eval"], predicted.map), 1e-5)
    agree("DRAEM", "image scores", AUTHORS, relative(predicted.score, GOLDEN["scores_eval"]), 1e-5)


def test_losses_of_the_first_steps(method: DRAEM, agree: Agree) -> None:
    X, X_a, mask = batch()
    method.model.train()
    optimiser = torch.optim.Adam(method.model.parameters(), lr=DRAEMConfig().lr)
    apart = []
    for step in GOLDEN["steps"]:
        terms = method.losses(X, *method.model(X_a), mask)
        total = torch.stack(list(terms.values())).sum()
        names = (*terms, "total")
        ours = [float(x.detach()) for x in (*terms.values(), total)]
        apart.append(max(relative([x], [step[name]]) for x, name in zip(ours, names, strict=True)))
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        if "gradient_norms" in step:
            parts = (method.model.reconstructive_subnetwork, method.model.discriminative_subnetwork)
            grads = [[p.grad.flatten() for p in part.parameters() if p.grad is not None] for part in parts]
            norms = [float(torch.cat(grad).double().norm()) for grad in grads]
            slope = relative(norms, step["gradient_norms"])
            # Of 1e8 terms in single precision: kernels for AVX2 and for AVX-512 differ by 2.8 %.
            agree("DRAEM", "gradients' norms of the first step", AUTHORS, slope, 0.05)
        optimiser.step()
    first, second = apart
    agree("DRAEM", "L2, SSIM, focal and total loss of the first step", AUTHORS, first, 1e-5)
    # Roundings take over: Adam divides by the size of gradients that are nothing else.
    agree("DRAEM", "the same of the second step", AUTHORS, second, 0.02)


def test_losses_alone(agree: Agree) -> None:
    X, _, mask = batch()
    Y = filled((2, 3, SIDE, SIDE), 3004)
    found = [float(ssim_loss(0.3 * X + 0.7 * Y, X)), float(ssim_loss(3 * Y - 1, X))]
    theirs = [GOLDEN["ssim_within_0_1"], GOLDEN["ssim_below_minus_half"]]
    agree("DRAEM", "SSIM loss, both of its value ranges", AUTHORS, relative(found, theirs), 1e-5)
    logits = 24 * filled((2, 2, SIDE, SIDE), 3005) - 12
    apart = relative([float(focal_loss(logits, mask))], [GOLDEN["focal_of_confident_logits"]])
    agree("DRAEM", "focal loss of confident logits", AUTHORS, apart, 1e-5)


def test_perlin_noise(agree: Agree) -> None:
    apart = []
    for name, theirs in GOLDEN["perlin"].items():
        cells = [int(count) for count in name.split("x")]
        ours = perlin_noise(SIDE, cells, angles(cells, 3100 + cells[0]))
        apart.append(against(theirs, torch.from_numpy(ours)))
    agree("DRAEM", "Perlin noise of given gradients", AUTHORS, max(apart), 1e-7)
    turned = rotated(perlin_noise(SIDE, [4, 4], angles([4, 4], 3300)), 58)
    apart = [against(GOLDEN["perlin_rotated_by_58"], torch.from_numpy(turned))]
    agree("DRAEM", "Perlin noise, rotated", IMGAUG, apart[0], 1e-7)


def change(name: str) -> Pixels:
    """One of the changes of a texture, by its name in the golden values."""
    kind, *given = name.split()
    x = texture()
    match kind:
        case "gamma":
            return synthetic.gamma(x, [float(v) for v in given])
        case "brightness":
            return synthetic.brightness(x, given[0], 1.15, -17, factor_first=given[1] == "mul")
        case "sharpness":
            return synthetic.sharpened(x, float(given[0]))
        case "hue":
            return synthetic.hue_and_saturation(x, int(given[0]), int(given[2]))
        case "solarize":
            return synthetic.solarized(x, float(given[0]))
        case "posterize":
            return synthetic.posterized(x, int(given[0]))
        case "invert":
            return synthetic.KINDS[6](x, Draw(torch.Generator()))
        case "autocontrast":
            return synthetic.contrasted(x, int(given[0]))
        case "equalize":
            return synthetic.equalized(x)
    return np.asarray(rotated(x, float(given[0])), np.uint8)


def test_changes_of_a_texture(agree: Agree) -> None:
    assert len(synthetic.KINDS) == 10
    apart: dict[str, float] = {}
    for name, theirs in GOLDEN["kinds"].items():
        ours = change(name).astype(np.float64)
        assert list(ours.shape) == theirs["shape"]
        assert abs(ours.mean() - theirs["mean"]) < 0.05, name
        levels = np.abs(ours.ravel()[:: theirs["every"]] - theirs["values"]).max()
        kind = "rotation" if name.startswith("rotate") else "other"
        apart[kind] = max(apart.get(kind, 0), float(levels))
    agree("DRAEM", "nine changes of a texture", IMGAUG, apart["other"], 0, "levels of 255")
    # OpenCV 5 rounds a rotated uint8 image otherwise than OpenCV 4.
    agree("DRAEM", "rotation of a texture", IMGAUG, apart["rotation"], 1, "levels of 255")


def test_a_whole_example(agree: Agree) -> None:
    x = np.floor(256 * noise(SIDE * SIDE * 3, 3400)).reshape(SIDE, SIDE, 3)
    image = torch.from_numpy((x / 255).astype(np.float32)).permute(2, 0, 1)
    apart, masks = [], []
    for given in GOLDEN["samples"]:
        noises = rotated(perlin_noise(SIDE, given["cells"], angles(given["cells"], 3500)), 58)
        mask = (noises > synthetic.THRESHOLD) & (given["u_normal"] <= synthetic.SHARE)
        masks.append(abs(int(mask.sum()) - given["mask_sum"]))
        foreign = rotated(change("invert"), 33)
        # The authors' β is how much of the image remains: 0.8 u, so that the opacity is at least 0.2.
        found = synthetic.blended(image, foreign, mask, 1 - 0.8 * given["u_beta"]).permute(1, 2, 0)
        theirs = given["image"]
        assert list(found.shape) == theirs["shape"]
        apart.append(np.abs(found.numpy().ravel()[:: theirs["every"]] - theirs["values"]).max() * 255)
    agree("DRAEM", "image with an anomaly, draws given", IMGAUG, max(apart), 1.01, "levels of 255")
    agree("DRAEM", "size of its mask, draws given", IMGAUG, max(masks), 0, "pixels")


def test_share_of_empty_masks(agree: Agree, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "t.png"), texture())
    generator = torch.Generator().manual_seed(0)
    make = synthetic.SyntheticAnomalies(tmp_path, (0.1, 1.0), 0, 0, generator)
    masks = [make._mask(256) for _ in range(300)]
    theirs = GOLDEN["share_of_empty_masks"]
    empty = np.mean([not mask.any() for mask in masks]) - theirs["empty"] / theirs["drawn"]
    area = np.mean([mask.mean() for mask in masks]) - theirs["mean_area"]
    # Three standard errors: of 300 draws of 5 %, and of areas that vary by about 0.05.
    agree("DRAEM", "share of empty masks at 256 pixels", IMGAUG, abs(empty), 0.04, "absolute")
    agree("DRAEM", "mean area of the masks", IMGAUG, abs(area), 0.01, "absolute")
