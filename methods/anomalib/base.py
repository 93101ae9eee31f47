"""What anomalib's models share: feature maps, the centre crop, training and predictions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.method import (
    Epoch,
    Hyperparameters,
    Images,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.features import FrozenFeatures

# The weights that the authors took from torchvision; timm's untagged name means others (racm_in1k).
WIDE_RESNET = "wide_resnet50_2.tv_in1k"
# Of the blur of maps in pixels; the papers of PatchCore and PaDiM, and anomalib.
SIGMA = 4.0


class BackboneConfig(Hyperparameters):
    """Hyper-parameters of a method on feature maps of a frozen network."""

    backbone: str = Field(WIDE_RESNET, description="timm name; torchvision's ImageNet weights, authors' code")
    strides: tuple[int, ...] = Field(
        (8, 16), min_length=1, description="strides of the feature maps, from fine to coarse"
    )


def import_anomalib() -> None:
    """Imports anomalib's models (seconds) without the warnings of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anomalib.models  # noqa: F401


def backbone_needs(config: BackboneConfig, image_size_multiple: int = 1) -> Needs:
    """Returns what a method on feature maps needs: the backbone's weights, and anomalib."""
    return Needs(
        backbones={config.backbone: config.strides},
        image_size_multiple=image_size_multiple,
        modules=("anomalib.models",),
        extra="anomalib",
    )


class FeatureMaps:
    """A frozen backbone that takes the harness's images.

    Images are normalised by the backbone's own mean and standard deviation (anomalib's pre-processor
    normalises by ImageNet's for every backbone).

    Args:
        setup: gives the backbone and the device.
        backbone: timm name.
        strides: strides of the feature maps.
        size: side of the images.
        reflect: whether the backbone's convolutions pad by reflection instead of zeros.

    Attributes:
        shapes: ``(C, h, w)`` of each feature map.
    """

    def __init__(
        self, setup: Setup, backbone: str, strides: tuple[int, ...], size: int, reflect: bool = False
    ) -> None:
        self._backbone = setup.load_features(backbone, strides)
        if reflect and isinstance(self._backbone, nn.Module):
            for layer in self._backbone.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.padding_mode = "reflect"
        self._setup, self._device = setup, setup.device
        self._mean = torch.tensor(self._backbone.mean, device=setup.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self._backbone.std, device=setup.device).view(1, 3, 1, 1)
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        self.shapes = [(y.shape[1], y.shape[2], y.shape[3]) for y in self(blank)]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """uint8 ``[B, 3, S, S]`` → feature maps ``[B, C, h, w]``."""
        # Channels last is what convolutions are fastest with; anomalib's losses want contiguous maps.
        X = images.to(self._device, torch.float32, memory_format=torch.channels_last)
        return [y.contiguous() for y in self._backbone((X / 255 - self._mean) / self._std)]

    def flat(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → all feature maps behind one another, ``[B, ΣChw]``."""
        return torch.cat([y.flatten(1) for y in self(images)], dim=1)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Takes apart what :meth:`flat` joined."""
        parts = torch.split(flat, [c * h * w for c, h, w in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def keep(self, images: Images, batch_size: int = 16) -> FrozenFeatures:
        """Returns the images' flat features by index, computed once where there is room for them."""
        return FrozenFeatures(images, self.flat, self._setup, batch_size)


@dataclass(frozen=True)
class CentreCrop:
    """The middle of the image, as some papers cut it, and the way back to the input's geometry.

    Attributes:
        size: side S of the images.
        fraction: side of the crop as a share of S; 1 leaves images as they are.
    """

    size: int
    fraction: float

    @property
    def inner(self) -> int:
        """Side of the crop in pixels."""
        return max(1, round(self.size * self.fraction))

    @property
    def _start(self) -> int:
        return (self.size - self.inner) // 2

    def crop(self, images: Tensor) -> Tensor:
        """``[..., S, S]`` → ``[..., inner, inner]``."""
        rows = slice(self._start, self._start + self.inner)
        return images[..., rows, rows]

    def restore(self, prediction: Prediction) -> Prediction:
        """Puts the map of a crop back in place; what lies outside repeats the nearest pixel of its edge.

        The score stays that of the crop: no method with a crop has seen anything outside it.
        """
        before, after = self._start, self.size - self.inner - self._start
        padded = F.pad(prediction.map[:, None], (before, after, before, after), mode="replicate")
        return replace(prediction, map=padded[:, 0])


def train(  # noqa: PLR0913 - a training
    module: nn.Module,
    loss: Callable[[list[Tensor]], Tensor],
    optimiser: torch.optim.Optimizer,
    maps: FeatureMaps,
    data: TrainingData,
    on_epoch: Callable[[Epoch], None],
    epochs: int,
    batch_size: int,
) -> None:
    """Trains a module on frozen feature maps for a fixed number of epochs; validation images are not used.

    Args:
        module: what is in training mode during an epoch and in evaluation mode at its end.
        loss: maps a batch's feature maps to the loss.
        optimiser: steps once a batch.
        maps: the feature maps.
        data: the images and the seed of their order.
        on_epoch: told of every epoch.
        epochs: how many.
        batch_size: images per step; the last batch of an epoch holds the rest.
    """
    features = maps.keep(data.train)
    generator = torch.Generator().manual_seed(data.seed)
    parts = {"module": module, "optimiser": optimiser, "generator": generator}
    for number in data.epochs(epochs, parts):
        module.train()
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        for rows in data.shuffled_rows(batch_size, generator):
            total += step(optimiser, loss(maps.split(features.batch(rows)))).double() * len(rows)
        module.eval()
        on_epoch(Epoch(number, epochs, {"loss": float(total) / data.images_per_epoch(batch_size)}))


def step(optimiser: torch.optim.Optimizer, loss: Tensor, zeros: bool = False) -> Tensor:
    """Makes one step of the optimiser and returns the loss it was made on.

    Args:
        optimiser: makes the step.
        loss: what it is made on.
        zeros: whether weights that the loss does not depend on keep a gradient of zero from earlier steps,
            so that the optimiser still moves them by their momentum, instead of none.
    """
    optimiser.zero_grad(set_to_none=not zeros)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.detach()


def one_by_one(predict: Callable[[Tensor], Prediction], images: Tensor) -> Prediction:
    """Predicts a batch image by image, so that matrix products round alike whatever the batch."""
    found = [predict(image[None]) for image in images]
    return Prediction(
        score=torch.cat([one.score for one in found]), map=torch.cat([one.map for one in found])
    )


def prediction(output: Any, size: int) -> Prediction:
    """Unifies what anomalib's models return: shapes differ by model, values stay raw.

    Args:
        output: an ``InferenceBatch`` with ``pred_score`` ``[B]`` or ``[B, 1]`` and ``anomaly_map``
            ``[B, S, S]`` or ``[B, 1, S, S]``.
        size: side S of the images.

    Raises:
        ValueError: the map is not at the resolution of the input.
    """
    maps: Tensor = output.anomaly_map.float()
    maps = maps.reshape(-1, *maps.shape[-2:])
    if maps.shape[-2:] != (size, size):
        raise ValueError(f"the model's map is {tuple(maps.shape[-2:])}, not {(size, size)}")
    score: Tensor = output.pred_score.float().reshape(-1)
    return Prediction(score=score, map=maps)
