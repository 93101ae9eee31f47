"""DFR: unsupervised anomaly segmentation by reconstructing multi-scale regional features.

J. Yang, Y. Shi, Z. Qi, "DFR: Deep Feature Reconstruction for Unsupervised Anomaly Segmentation", 2020
(arXiv:2012.07122), with the choices of the authors' code (github.com/YoungGod/DFR, commit f2e2d4e).

Feature maps of all layers are brought to one grid, concatenated, and reconstructed position by position by
an autoencoder of 1×1 convolutions; the reconstruction error is the anomaly map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.method import (
    Citation,
    Epoch,
    Hyperparameters,
    Method,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.features import FrozenFeatures

STRIDES = (2, 4, 8, 16)
# So many images are predicted at a time: all layers of one on one grid are 57 MB. On a CPU one is as fast as
# several, and its buffers are small enough for the C library to hand out again without asking the system.
AT_ONCE = {"cpu": 1}
ELSEWHERE = 8


class DFRConfig(Hyperparameters):
    """Hyper-parameters; the defaults are those of the paper and the authors' code."""

    backbone: str = Field(
        "vgg19",
        description="timm name; a VGG gives every ReLU of its first four stages (12 for vgg19, paper), any "
        "other network its feature maps of strides 2, 4, 8 and 16",
    )
    variance: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="d is the number of components with more than this share of variance; code",
    )
    pca_images: int = Field(10, ge=1, description="training images that the components are taken from; code")
    epochs: int = Field(700, ge=1, description="code: 700, and 150 for a set of its authors' own, of wine")
    batch_norm: bool = Field(
        True, description="whether the autoencoder has BatchNorm; code, whose first version had none"
    )
    batch_size: int = Field(4, ge=1, description="training images per step; code")
    lr: float = Field(1e-4, gt=0, description="learning rate of Adam; paper and code")


def resize_and_average(source: int, size: int, window: int = 4) -> Tensor:
    """Returns the matrix of resizing to ``size`` (bilinear, aligned corners), then averaging windows.

    DFR resizes every feature map to the image's size and averages it over ``window × window`` cells. Both
    steps are linear and separable, so that R f Rᵀ gives the same without the large maps (which are what
    makes the original slow).

    Returns:
        R, float32 ``[size / window, source]``, rows summing to 1.
    """
    unit = torch.eye(source, dtype=torch.float64)[None]
    rows = F.interpolate(unit, size=size, mode="linear", align_corners=True)[0].T
    return rows.reshape(size // window, window, source).mean(dim=1).float()


class FeatureAutoencoder(nn.Sequential):
    """C → (C+2d)/2 → 2d → d → 2d → (C+2d)/2 → C, BatchNorm and ReLU except after the code and the output."""

    def __init__(self, c: int, d: int, batch_norm: bool = True) -> None:
        def block(i: int, o: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 1), *([nn.BatchNorm2d(o)] if batch_norm else []), nn.ReLU()]

        middle = (c + 2 * d) // 2
        super().__init__(
            *block(c, middle),
            *block(middle, 2 * d),
            nn.Conv2d(2 * d, d, 1),
            *block(d, 2 * d),
            *block(2 * d, middle),
            nn.Conv2d(middle, c, 1),
        )


def code_width(y: Tensor, variance: float) -> int:
    """Returns how many principal components of ``[positions, C]`` hold more than a share of the variance."""
    centred = y.double() - y.double().mean(dim=0)
    # Of both products the eigenvalues but 0 are the same.
    product = centred.T @ centred if len(centred) > y.shape[1] else centred @ centred.T
    eigenvalues = torch.linalg.eigvalsh(product).flip(0).clamp_min(0)
    share = eigenvalues.cumsum(0) / eigenvalues.sum()
    return min(int((share <= variance).sum()) + 1, len(share))


def vgg_maps(layers: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
    """Yields the ReLU maps of a VGG's first four stages, padded by reflection as the authors' VGG19 pads.

    Each convolution gets its input padded by one pixel that repeats the second row or column. A map that the
    next convolution takes is yielded with that padding, S/s + 2 on a side; the last one of a stage, which is
    pooled next, without.

    Args:
        layers: the network's ``features``: 3×3 convolutions (with BatchNorm or without), ReLU, pooling.
        x: normalised images ``[B, 3, S, S]``, S at least 16.
    """
    stage, x = 1, F.pad(x, (1, 1, 1, 1), mode="reflect")
    for layer, following in pairwise(layers):
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias)
            continue
        x = layer(x)
        stage += isinstance(layer, nn.MaxPool2d)
        if stage > 4:
            return
        if isinstance(following, nn.Conv2d):
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        if isinstance(layer, nn.ReLU):
            yield x


class DFR(Method):
    """DFR (Yang, Shi and Qi, 2020)."""

    # 2: a VGG pads by reflection; 700 epochs.
    version = 2
    Config = DFRConfig
    config: DFRConfig
    citation = Citation(
        title="DFR: Deep Feature Reconstruction for Unsupervised Anomaly Segmentation",
        authors="Yang, Jie and Shi, Yong and Qi, Zhiquan",
        year=2020,
        venue="arXiv preprint arXiv:2012.07122",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2012.07122",
    )

    @classmethod
    def needs(cls, config: DFRConfig) -> Needs:
        """The backbone's ImageNet weights."""
        if config.backbone.startswith("vgg"):
            # Below, the last stage has one pixel, which nothing can be reflected around.
            return Needs(backbones={config.backbone: ()}, image_size_multiple=4, image_size_least=16)
        return Needs(backbones={config.backbone: STRIDES}, image_size_multiple=4)

    def __init__(self, config: DFRConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._maps, mean, std = self._feature_maps()
        self._pixel_mean = torch.tensor(mean, device=setup.device).view(1, 3, 1, 1) * 255
        self._pixel_std = torch.tensor(std, device=setup.device).view(1, 3, 1, 1) * 255
        self._resize: dict[int, Tensor] = {}
        self.autoencoder: FeatureAutoencoder | None = None

    def _feature_maps(
        self,
    ) -> tuple[Callable[[Tensor], Iterable[Tensor]], tuple[float, ...], tuple[float, ...]]:
        """Returns the function from X to feature maps, and the normalisation of X."""
        name = self.config.backbone
        if not name.startswith("vgg"):
            backbone = self.setup.load_features(name, STRIDES)
            return backbone, backbone.mean, backbone.std
        network, mean, std = self.setup.load_network(name)
        layers = list(network.get_submodule("features").children())
        return (lambda x: vgg_maps(layers, x)), mean, std

    def _normalise(self, images: Tensor) -> Tensor:
        # Decoded images lie channels last, and so would every layer, of which matrix products need copies.
        X = images.to(self.setup.device).contiguous().float()
        return (X - self._pixel_mean) / self._pixel_std

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → ``[B, C, S/4, S/4]``: all layers on one grid."""
        return torch.cat([self._to_grid(y) for y in self._maps(self._normalise(images))], dim=1)

    def _to_grid(self, y: Tensor) -> Tensor:
        side = int(y.shape[-1])
        if side not in self._resize:
            self._resize[side] = resize_and_average(side, self.setup.image_size).to(y.device)
        R = self._resize[side]
        return R @ y @ R.T

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains the autoencoder with Adam on the mean squared error; validation images are not used."""
        config = self.config
        features = FrozenFeatures(data.train, self.features, self.setup, batch_size=4)
        first = features.batch(range(min(config.pca_images, len(features))))
        c = first.shape[1]
        self.autoencoder = self._build(c, code_width(first.transpose(0, 1).flatten(1).T, config.variance))
        optimiser = torch.optim.Adam(self.autoencoder.parameters(), lr=config.lr)
        generator = torch.Generator().manual_seed(data.seed)
        parts = {"autoencoder": self.autoencoder, "optimiser": optimiser, "generator": generator}
        for number in data.epochs(config.epochs, parts):
            self.autoencoder.train()
            total = torch.zeros((), device=self.setup.device)
            for rows in data.shuffled_rows(config.batch_size, generator):
                y = features.batch(rows)
                loss = F.mse_loss(self.autoencoder(y), y)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += loss.detach() * len(rows)
            self.autoencoder.eval()
            on_epoch(
                Epoch(number, config.epochs, {"mse": float(total) / data.images_per_epoch(config.batch_size)})
            )

    def _build(self, c: int, d: int) -> FeatureAutoencoder:
        return FeatureAutoencoder(c, d, self.config.batch_norm).to(self.setup.device)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Mean squared error per position, bilinear to the image; the score is the map's maximum."""
        if self.autoencoder is None:
            raise RuntimeError("DFR.predict was called before fit or load_state_dict")
        # A file made of this takes any number of images, which it cannot tell beforehand.
        traced = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        at_once = AT_ONCE.get(self.setup.device.type, ELSEWHERE)
        self.autoencoder.eval()
        parts = [images] if traced else torch.split(images, at_once)
        errors = torch.cat([self._errors(self.autoencoder, part) for part in parts])
        size = (self.setup.image_size, self.setup.image_size)
        maps = F.interpolate(errors[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
        return Prediction(score=maps.amax(dim=(1, 2)), map=maps)

    def _errors(self, autoencoder: FeatureAutoencoder, images: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, ``[B, S/4, S/4]``.

        The first 1×1 convolution commutes with resizing and averaging: it is taken of each layer on its own
        and, where a layer is smaller than the grid, before that layer is resized. The last one gives the
        reconstruction of one layer after the other, so that never all of it is there.
        """
        first, *middle, last = autoencoder
        inwards, outwards = cast(Tensor, first.weight), cast(Tensor, last.weight)
        layers, widths, begin = list[Tensor](), list[int](), 0
        # By the side of what was convolved: all of one side are resized together.
        sums: dict[int, Tensor] = {}
        for f in self._maps(self._normalise(images)):
            layers.append(self._to_grid(f))
            small = f if f.shape[-1] < layers[-1].shape[-1] else layers[-1]
            # Numbers also where PyTorch traces, which has tensors for them.
            width, side = int(f.shape[1]), int(small.shape[-1])
            part = F.conv2d(small, inwards[:, begin : begin + width])
            sums[side] = sums[side].add_(part) if side in sums else part
            widths.append(width)
            begin += width
        hidden = cast(Tensor, first.bias).view(1, -1, 1, 1)
        for side, part in sums.items():
            hidden = hidden + (part if side == layers[0].shape[-1] else self._to_grid(part))
        for layer in middle:
            hidden = layer(hidden)
        squares = torch.zeros_like(layers[0][:, 0])
        rows = torch.split(outwards, widths), torch.split(cast(Tensor, last.bias), widths)
        for y, weight, bias in zip(layers, *rows, strict=True):
            squares += F.conv2d(hidden, weight, bias).sub_(y).square_().sum(dim=1)
        return squares / begin

    def state_dict(self) -> dict[str, Tensor]:
        """The autoencoder, whose convolutions tell C and d."""
        return dict(self.autoencoder.state_dict()) if self.autoencoder is not None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if not state:
            self.autoencoder = None
            return
        d = min(len(weight) for weight in state.values() if weight.ndim == 4)
        self.autoencoder = self._build(state["0.weight"].shape[1], d)
        self.autoencoder.load_state_dict(dict(state))
        self.autoencoder.eval()
