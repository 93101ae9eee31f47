"""Reverse Distillation: a decoder that restores a teacher's features from their bottleneck, from anomalib.

H. Deng, X. Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022
(arXiv:2201.10703), with the choices of the authors' code (github.com/hq-deng/RD4AD) where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.method import Citation, Epoch, Method, Needs, Prediction, Setup, TrainingData
from methods.anomalib.base import SIGMA, BackboneConfig, FeatureMaps, backbone_needs, import_anomalib, train
from methods.blur import blur, gaussian_kernel

# Backbones whose mirror image anomalib has.
MIRRORED = frozenset(
    {
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    }
)
STAND_IN, STAND_IN_CHANNELS = "resnet18", (64, 128, 256)
# Residual blocks of the bottleneck whose networks are made of basic blocks; all others have three.
BASIC_BLOCKS = {"resnet18": 2, "resnet34": 3}


class ReverseDistillationConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of the paper and the authors' code."""

    strides: tuple[int, int, int] = Field(
        (4, 8, 16), description="layers 1 to 3 of a ResNet; paper, section 3.2"
    )
    epochs: int = Field(200, ge=1, description="authors' code")
    batch_size: int = Field(16, ge=1, description="authors' code")
    lr: float = Field(0.005, gt=0, description="learning rate of Adam; authors' code")
    beta1: float = Field(0.5, ge=0, lt=1, description="of Adam; authors' code")
    beta2: float = Field(0.999, ge=0, lt=1, description="of Adam; authors' code (anomalib: 0.99)")


def make_bottleneck(name: str) -> nn.Module:
    """Returns the one-class bottleneck of a ResNet, initialised as the authors' ``BN_layer``.

    The authors' has three blocks for ResNet34 and, for wide networks, twice the width (``resnet.py``, lines
    484 and 557); ``anomalib.get_bottleneck_layer`` has two blocks and the plain width.

    Args:
        name: one of :data:`MIRRORED`.
    """
    from anomalib.models.image.reverse_distillation.components.bottleneck import OCBE
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if name in BASIC_BLOCKS:
        made: nn.Module = OCBE(BasicBlock, BASIC_BLOCKS[name])
    else:
        made = OCBE(Bottleneck, 3, width_per_group=128 if name.startswith("wide") else 64)
    return made


class Student(nn.Module):
    """One-class bottleneck and decoder; feature maps → feature maps of the same shapes.

    A ResNet has a decoder that mirrors it, as in the paper. Any other backbone gets ResNet18's, with a
    1×1 convolution per map before the bottleneck and after the decoder: ours, the paper has ResNets only.

    Args:
        backbone: timm name.
        channels: channels of the three feature maps.
    """

    def __init__(self, backbone: str, channels: list[int]) -> None:
        from anomalib.models.components.backbone import get_decoder

        super().__init__()
        name = backbone.partition(".")[0]
        mirrored = name in MIRRORED
        self.bottleneck = make_bottleneck(name if mirrored else STAND_IN)
        self.decoder = get_decoder(name if mirrored else STAND_IN)
        pairs = [] if mirrored else list(zip(channels, STAND_IN_CHANNELS, strict=True))
        self.before = nn.ModuleList(nn.Conv2d(c, s, 1) for c, s in pairs)
        self.after = nn.ModuleList(nn.Conv2d(s, c, 1) for c, s in pairs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Restores the feature maps from their joint bottleneck."""
        if self.before:
            maps = [convolution(y) for convolution, y in zip(self.before, maps, strict=True)]
        restored: list[Tensor] = self.decoder(self.bottleneck(maps))
        if self.after:
            restored = [convolution(y) for convolution, y in zip(self.after, restored, strict=True)]
        return restored


class ReverseDistillation(Method):
    """Reverse Distillation (Deng and Li, 2022)."""

    version = 2
    Config = ReverseDistillationConfig
    config: ReverseDistillationConfig
    citation = Citation(
        title="Anomaly Detection via Reverse Distillation from One-Class Embedding",
        authors="Deng, Hanqiu and Li, Xingyu",
        year=2022,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2201.10703",
    )

    @classmethod
    def needs(cls, config: ReverseDistillationConfig) -> Needs:
        """The backbone's ImageNet weights, and anomalib; the bottleneck halves the coarsest map."""
        return backbone_needs(config, image_size_multiple=2 * config.strides[-1])

    def __init__(self, config: ReverseDistillationConfig, setup: Setup) -> None:
        import_anomalib()
        from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

        super().__init__(config, setup)
        self.maps = FeatureMaps(setup, config.backbone, config.strides, setup.image_size)
        self.student = Student(config.backbone, [c for c, _, _ in self.maps.shapes]).to(setup.device).eval()
        self._loss = ReverseDistillationLoss()
        self._kernel = gaussian_kernel(SIGMA).to(setup.device)

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam over bottleneck and decoder."""
        betas = (self.config.beta1, self.config.beta2)
        return torch.optim.Adam(self.student.parameters(), lr=self.config.lr, betas=betas)

    def loss(self, maps: list[Tensor]) -> Tensor:
        """Sum over the maps of 1 − cosine similarity of the whole flattened map, as in the authors' code.

        The paper's eq. 2 and 3 take the cosine position by position.
        """
        loss: Tensor = self._loss(maps, self.student(maps))
        return loss

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains bottleneck and decoder for a fixed number of epochs; validation images are not used."""
        config = self.config
        train(
            self.student,
            self.loss,
            self.optimiser(),
            self.maps,
            data,
            on_epoch,
            config.epochs,
            config.batch_size,
        )

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Sum of the maps of 1 − cosine, bilinear to the image, σ = 4; its maximum is the score."""
        maps = blur(self.unblurred(self.maps(images)), self._kernel, "at the edge")
        return Prediction(score=maps.amax(dim=(1, 2)), map=maps)

    def unblurred(self, maps: list[Tensor]) -> Tensor:
        """The teacher's feature maps → sum of their maps of 1 − cosine ``[B, S, S]``, each in [0, 2]."""
        found = torch.zeros((), device=self.setup.device)
        for teacher, restored in zip(maps, self.student(maps), strict=True):
            distance = 1 - F.cosine_similarity(restored, teacher)
            found = found + F.interpolate(
                distance[:, None], size=self.setup.image_size, mode="bilinear", align_corners=True
            )
        return found[:, 0]

    def state_dict(self) -> dict[str, Tensor]:
        """Bottleneck and decoder."""
        return dict(self.student.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.student.load_state_dict(dict(state))
