"""EfficientAD: accurate visual anomaly detection at millisecond-level latencies.

K. Batzner, L. Heckler, R. König, WACV 2024 (arXiv:2303.14535), with anomalib's networks and training losses.
A student learns to give the features of a pretrained teacher on normal images, an autoencoder to give them
from a bottleneck, and the student also to predict the autoencoder; where they disagree is anomalous.

The authors published no code; what the paper leaves open follows the reimplementation
github.com/nelson1425/EfficientAD (commit fcab514), which reports image AUROCs within 0.6 of the paper's.
Losses, statistics, maps and scores agree with it in value, and the quantiles with ``quantiles=cells``. Where
anomalib 2.7 differs:

- The learning rate drops after 95 % of the *steps*. anomalib counts epochs, so that it never drops.
- The quantiles are those of maps without a border of zeros.
- The border, for which the networks have no score, is 0 *after* normalisation, as is a pixel at the lower
  quantile. anomalib's is 0 before it, which ranks below all else.
- Below 256 pixels anomalib's autoencoder fails; the kernel of its bottleneck, 8 at 256 pixels, here shrinks
  with the image (S / 32), down to 128 pixels, below which its decoder has no room.

Penalty images are ImageNette's, as in anomalib, for the paper's ImageNet. ``teacher=distilled`` and
``penalty=photographs`` are stand-ins for machines without the downloads (see
:mod:`methods.anomalib.distil`). No published number was made with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.method import (
    PHOTOGRAPHS,
    Asset,
    Citation,
    Epoch,
    Hyperparameters,
    Images,
    Method,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.anomalib.base import import_anomalib
from methods.anomalib.distil import STRIDES, Distillation, distil
from methods.anomalib.photos import PenaltyImages, image_files, read_image

TEACHER = Asset(
    "efficientad-teacher",
    "EfficientAD's teacher networks S and M, distilled from a Wide-ResNet-101-2 on ImageNet",
    "Apache-2.0",
    url="https://github.com/open-edge-platform/anomalib/releases/download/efficientad_pretrained_weights/"
    "efficientad_pretrained_weights.zip",
    sha256="c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
)
IMAGENETTE = Asset(
    "imagenette",
    "ImageNette: 13,394 ImageNet photographs of ten classes, EfficientAD's penalty images",
    "Apache-2.0; the photographs as in ImageNet",
    url="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
    sha256="6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
)
PRETRAINED_CHANNELS = 384
SMALLEST = 128
QUANTILES = (0.9, 0.995)
BORDER = 4  # cells that a patch description network loses on each side


class EfficientADConfig(Hyperparameters):
    """Hyper-parameters; the defaults are those of the paper."""

    size: Literal["S", "M"] = Field("S", description="of teacher and student; paper, section 3.1")
    steps: int = Field(70_000, ge=1, description="training steps of one image; paper, appendix A")
    lr: float = Field(
        1e-4, gt=0, description="learning rate of Adam, times 0.1 after 95 % of the steps; paper, appendix A"
    )
    weight_decay: float = Field(1e-5, ge=0, description="of Adam; paper, appendix A")
    quantiles: Literal["pixels", "cells"] = Field(
        "pixels",
        description="of maps enlarged to the image's size (paper, algorithm 1), or of the networks' cells "
        "(nelson1425's reimplementation)",
    )
    penalty: Literal["imagenette", "photographs"] = Field(
        "imagenette",
        description="images on which the student must stay silent: ImageNette (anomalib; in the paper all "
        "of ImageNet), or a few bundled photographs, a stand-in that no published number was made with",
    )
    teacher: Literal["pretrained", "distilled"] = Field(
        "pretrained",
        description="the published teacher (paper, section 3.1), or one distilled on a few "
        "bundled photographs, a stand-in that no published number was made with",
    )
    channels: int = Field(
        384, ge=1, description="of the teacher; paper, section 3.1; others only for a distilled teacher"
    )
    distill_backbone: str = Field(
        "wide_resnet101_2",
        description="timm name; what a distilled teacher learns from (feature maps of strides 8 and 16); "
        "paper, section 3.1",
    )
    distill_steps: int = Field(60_000, ge=1, description="steps of distilling a teacher; paper, appendix A")
    distill_batch: int = Field(16, ge=1, description="crops per step of distilling; paper, ibidem")
    distill_lr: float = Field(1e-4, gt=0, description="learning rate of distilling; paper, ibidem")
    distill_crop: int = Field(
        256, ge=64, multiple_of=16, description="side of the teacher's crops in distilling; paper, ibidem"
    )

    @model_validator(mode="after")
    def _teacher_has_these_channels(self) -> EfficientADConfig:
        if self.teacher == "pretrained" and self.channels != PRETRAINED_CHANNELS:
            raise ValueError(
                f"the pretrained teacher has {PRETRAINED_CHANNELS} channels: leave 'channels' away, or give "
                "teacher=distilled"
            )
        return self


class EfficientAD(Method):
    """EfficientAD (Batzner, Heckler and König, 2024).

    Initial weights, dropout and colour changes draw from torch's global generator, which the harness seeds.
    An "epoch" is a pass through the training images; the last one may be cut short by the number of steps.

    Raises:
        ValueError: the images are smaller than 128 pixels.
    """

    version = 2
    Config = EfficientADConfig
    config: EfficientADConfig
    citation = Citation(
        title="EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies",
        authors="Batzner, Kilian and Heckler, Lars and König, Rebecca",
        year=2024,
        venue="IEEE/CVF Winter Conference on Applications of Computer Vision",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2303.14535",
    )

    @classmethod
    def needs(cls, config: EfficientADConfig) -> Needs:
        """The teacher or what it is distilled from, and the penalty images."""
        distilled = config.teacher == "distilled"
        assets = [PHOTOGRAPHS if distilled else TEACHER]
        assets.append(IMAGENETTE if config.penalty == "imagenette" else PHOTOGRAPHS)
        return Needs(
            backbones={config.distill_backbone: STRIDES} if distilled else {},
            assets=tuple(dict.fromkeys(assets)),
            image_size_least=SMALLEST,
            modules=("anomalib.models",),
            extra="anomalib",
        )

    @classmethod
    def remarks(cls, config: EfficientADConfig) -> tuple[str, ...]:
        """Names the stand-ins."""
        found = []
        if config.teacher == "distilled":
            found.append(
                "Its teacher is a stand-in for the published one: distilled on the spot from "
                f"{config.distill_backbone}, in {config.distill_steps} steps, on a few photographs of "
                "scikit-image's instead of ImageNet."
            )
        if config.penalty == "photographs":
            found.append("Its penalty images are a few photographs of scikit-image's instead of ImageNette.")
        return tuple(found)

    def __init__(self, config: EfficientADConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        import_anomalib()
        from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize

        size = EfficientAdModelSize.S if config.size == "S" else EfficientAdModelSize.M
        self.model: Any = EfficientAdModel(config.channels, size)
        bottleneck = min(8, setup.image_size // 32)
        if bottleneck < 8:
            self.model.ae.encoder.enconv6 = nn.Conv2d(64, 64, kernel_size=bottleneck)
        self.model.to(setup.device)
        self.model.teacher.requires_grad_(False)

    def _float(self, images: Tensor) -> Tensor:
        return images.to(self.setup.device).float() / 255

    def _prepare_teacher(self, seed: int) -> None:
        config, teacher = self.config, self.model.teacher
        if config.teacher == "distilled":
            how = Distillation(
                config.distill_steps, config.distill_batch, config.distill_lr, config.distill_crop
            )
            backbone = self.setup.load_features(config.distill_backbone, STRIDES)
            photos = [read_image(path) for path in image_files(self.setup.asset(PHOTOGRAPHS.name))]
            teacher.requires_grad_(True)
            distil(teacher, config.channels, backbone, photos, how, self.setup.device, seed)
            teacher.requires_grad_(False)
            return
        name = f"pretrained_teacher_{'small' if config.size == 'S' else 'medium'}.pth"
        folder = self.setup.asset(TEACHER.name)
        found = sorted(folder.rglob(name))
        if not found:
            raise FileNotFoundError(f"EfficientAD's teacher: there is no {name} in {folder}, fetch it again")
        teacher.load_state_dict(torch.load(found[0], map_location=self.setup.device, weights_only=True))

    @torch.no_grad()
    def _standardise(self, images: Images) -> None:
        """Sets mean and deviation of the teacher's channels over the training images (paper, appendix A)."""
        channels = self.config.channels
        sums = torch.zeros(2, channels, dtype=torch.float64, device=self.setup.device)
        count = 0
        for batch in images.batches(8):
            y = self.model.teacher(self._float(batch)).double()
            sums += torch.stack([y.sum(dim=(0, 2, 3)), y.square().sum(dim=(0, 2, 3))])
            count += y[:, 0].numel()
        mean, square = (sums / count).float().view(2, 1, channels, 1, 1), sums[1] / count
        variance = (square - (sums[0] / count).square()).clamp_min(1e-12)
        std = variance.sqrt().float().view(1, channels, 1, 1)
        self.model.mean_std.update({"mean": mean[0], "std": std})

    def _cells(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the maps of both pairs of networks before normalisation, ``[B, S/4 − 8, S/4 − 8]``."""
        X, model = self._float(images), self.model
        student, distance = model.compute_student_teacher_distance(X)
        gap = model.ae(X, X.shape[-2:]) - student[:, self.config.channels :]
        return {"st": distance.mean(dim=1), "ae": gap.square().mean(dim=1)}

    @torch.no_grad()
    def _calibrate(self, images: Images) -> None:
        """Sets the quantiles of both maps over normal validation images (paper, section 3.4)."""
        from anomalib.models.image.efficient_ad.torch_model import reduce_tensor_elems

        self.model.eval()
        cells = [self._cells(batch) for batch in images.batches(8)]
        quantiles: dict[str, Tensor] = {}
        for branch in cells[0]:
            maps = torch.cat([found[branch] for found in cells])
            if self.config.quantiles == "pixels":
                maps = F.interpolate(maps[:, None], size=(self.setup.image_size,) * 2, mode="bilinear")
            values = reduce_tensor_elems(maps)
            for name, share in zip("ab", QUANTILES, strict=True):
                quantiles[f"q{name}_{branch}"] = torch.quantile(values, share)
        self.model.quantiles.update(quantiles)

    def losses(self, X: Tensor, P: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, of which the sum is minimised (paper, sections 3.2 and 3.3).

        Args:
            X: a normal image ``[1, 3, S, S]`` in [0, 1].
            P: a penalty image, like ``X``.
        """
        st, ae, stae = self.model(batch=X, batch_imagenet=P)
        return {"st": st, "ae": ae, "stae": stae}

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains student and autoencoder; the quantiles are taken anew at the end of every pass."""
        config, count = self.config, len(data.train)
        self._prepare_teacher(data.seed)
        self._standardise(data.train)
        asset = IMAGENETTE if config.penalty == "imagenette" else PHOTOGRAPHS
        generator = torch.Generator().manual_seed(data.seed)
        penalties = PenaltyImages(self.setup.asset(asset.name), self.setup.image_size, generator)
        trained = [*self.model.student.parameters(), *self.model.ae.parameters()]
        optimiser = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)
        drop = max(1, int(0.95 * config.steps))
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=drop, gamma=0.1)
        passes = -(-config.steps // count)
        parts = {"model": self.model, "optimiser": optimiser, "schedule": schedule}
        for number in data.epochs(passes, {**parts, "penalties": penalties, "generator": generator}):
            self.model.train()
            self.model.teacher.eval()
            totals: dict[str, Tensor] = {}
            steps = min(count, config.steps - (number - 1) * count)
            for _, images in zip(range(steps), data.shuffled(1, generator), strict=False):
                terms = self.losses(self._float(images), next(penalties).to(self.setup.device))
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach()
            self._calibrate(data.validation)
            means = {name: float(total) / steps for name, total in totals.items()}
            on_epoch(Epoch(number, passes, means))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Mean of both quantile-normalised maps; the score is its maximum (paper, section 3.4).

        The networks have no padding, so their maps lack 16 pixels on each side; there the normalised maps
        are zero.
        """
        self.model.eval()
        q = self.model.quantiles
        maps = []
        for branch, cells in self._cells(images).items():
            low, high = q[f"qa_{branch}"], q[f"qb_{branch}"]
            padded = F.pad(0.1 * (cells[:, None] - low) / (high - low), (BORDER,) * 4)
            maps.append(F.interpolate(padded, size=images.shape[-2:], mode="bilinear")[:, 0].float())
        local, overall = maps
        combined = (local + overall) / 2
        parts = {"local": local, "global": overall}
        return Prediction(score=combined.amax(dim=(1, 2)), map=combined, parts=parts)

    def state_dict(self) -> dict[str, Tensor]:
        """All networks, the teacher among them, channel statistics and quantiles."""
        return {name: value.detach() for name, value in self.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.model.load_state_dict(dict(state))
