"""A small stand-in for EfficientAD's teacher: a patch description network distilled from any backbone.

EfficientAD's authors distil their teacher from a Wide-ResNet-101-2 on ImageNet for 60,000 steps (paper,
section 3.1). Here the same is done with the backbone and the images that a machine has. It is for machines
without the published weights; no published number was made with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.method import Backbone
from methods.anomalib.photos import grey, random_crop

STRIDES = (8, 16)  # layer2 and layer3 of a ResNet, as in the paper
PDN_STRIDE = 4
PDN_BORDER = 4  # cells that a patch description network without padding loses on each side
GREY = 0.1


@dataclass(frozen=True)
class Distillation:
    """How a teacher is distilled.

    Attributes:
        steps: steps of Adam.
        batch_size: crops per step.
        lr: learning rate of Adam, with a weight decay of 1e-5.
        crop: side of the teacher's input; the backbone sees the same crop at twice that side.
    """

    steps: int
    batch_size: int
    lr: float
    crop: int


class Target:
    """What a teacher learns to give: a backbone's features, standardised and projected to its channels.

    Feature maps of strides 8 and 16 of the image at twice its side are brought to stride 4 of the image
    (bilinear), concatenated, standardised by the mean and standard deviation over ``sample``, and projected
    by a seeded Gaussian matrix with variance 1 / C, so that every channel has a variance near 1.

    Args:
        backbone: gives feature maps of :data:`STRIDES`.
        channels: of the teacher.
        sample: images ``[B, 3, S, S]`` in [0, 1].
        generator: of the projection, on the CPU.
    """

    def __init__(self, backbone: Backbone, channels: int, sample: Tensor, generator: torch.Generator) -> None:
        self._backbone = backbone
        self._mean = torch.tensor(backbone.mean, device=sample.device).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.std, device=sample.device).view(1, 3, 1, 1)
        features = self._features(sample)
        self._location = features.mean(dim=(0, 2, 3), keepdim=True)
        self._scale = features.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)
        c = features.shape[1]
        self._projection = (torch.randn(channels, c, generator=generator) / c**0.5).to(sample.device)

    def _features(self, images: Tensor) -> Tensor:
        large = F.interpolate(images, scale_factor=2, mode="bilinear")
        maps = self._backbone((large - self._mean) / self._std)
        size = (images.shape[-1] // PDN_STRIDE,) * 2
        return torch.cat([F.interpolate(m, size=size, mode="bilinear") for m in maps], dim=1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` in [0, 1] → ``[B, channels, S/4 − 8, S/4 − 8]``."""
        features = (self._features(images) - self._location) / self._scale
        projected = torch.einsum("oc,bchw->bohw", self._projection, features)
        return projected[..., PDN_BORDER:-PDN_BORDER, PDN_BORDER:-PDN_BORDER]


def distil(  # noqa: PLR0913 - a training
    teacher: nn.Module,
    channels: int,
    backbone: Backbone,
    photos: Sequence[Tensor],
    how: Distillation,
    device: torch.device,
    seed: int,
) -> list[float]:
    """Trains a patch description network to give a backbone's features; returns the loss of each step.

    Args:
        teacher: maps ``[B, 3, S, S]`` in [0, 1] to ``[B, channels, S/4 − 8, S/4 − 8]``.
        channels: of the teacher.
        backbone: gives feature maps of :data:`STRIDES`.
        photos: uint8 ``[3, H, W]`` each.
        how: lengths and sizes.
        device: where to compute.
        seed: of crops and projection.
    """
    generator = torch.Generator().manual_seed(seed)

    def batch(count: int) -> Tensor:
        numbers = torch.randint(len(photos), (count,), generator=generator).tolist()
        crops = [random_crop(photos[i], how.crop, generator) for i in numbers]
        chances = torch.rand(count, generator=generator).tolist()
        return torch.stack([grey(x) if u < GREY else x for x, u in zip(crops, chances, strict=True)]).to(
            device
        )

    target = Target(backbone, channels, batch(max(how.batch_size, 16)), generator)
    optimiser = torch.optim.Adam(teacher.parameters(), lr=how.lr, weight_decay=1e-5)
    losses: list[Tensor] = []
    teacher.train()
    for _ in range(how.steps):
        images = batch(how.batch_size)
        loss = F.mse_loss(teacher(images), target(images))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
    teacher.eval()
    found: list[float] = torch.stack(losses).tolist()
    return found
