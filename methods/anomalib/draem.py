"""DRAEM, a discriminatively trained reconstruction embedding for surface anomaly detection.

V. Zavrtanik, M. Kristan, D. Skočaj, ICCV 2021 (arXiv:2108.07610), with anomalib's networks and synthetic
anomalies. Pieces of foreign textures are blended into normal images; one network learns to paint the normal
image back, a second one, which sees the image beside its reconstruction, learns to mark the pieces.

Three choices follow the paper or the authors' code (github.com/VitjanZ/DRAEM) where anomalib 2.7 differs:

- The focal loss counts normal pixels too (:attr:`DRAEMConfig.focal`). anomalib passes ``alpha=1`` to
  kornia, which weights the background by 1 − alpha = 0: marking everything anomalous then costs nothing.
- Normal images are rotated, weights start from N(0, 0.02) (batch normalisation from N(1, 0.02)).
- The image score is the maximum of the map averaged over 21×21 pixels, not of the map itself.

``textures=photographs`` is a stand-in for machines without the Describable Textures Dataset. No published
number was made with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.method import (
    PHOTOGRAPHS,
    Asset,
    Citation,
    Epoch,
    Hyperparameters,
    Method,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.anomalib.base import import_anomalib, prediction

TEXTURES = Asset(
    "dtd",
    "Describable Textures Dataset: 5,640 images that DRAEM makes its synthetic anomalies from",
    "for research purposes, see the dataset's page",
    url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
)
SMALLEST = 64
SCORE_WINDOW = 21
OPACITY = (0.1, 1.0)  # β of the paper's eq. 4


class DRAEMConfig(Hyperparameters):
    """Hyper-parameters; the defaults are those of the paper, else of the authors' code."""

    textures: Literal["dtd", "photographs"] = Field(
        "dtd",
        description="where synthetic anomalies come from: the Describable Textures Dataset (paper, section "
        "4), or a few bundled photographs, a stand-in that no published number was made with",
    )
    width: int = Field(
        128,
        ge=2,
        multiple_of=2,
        description="channels of the first layer of the reconstructive network, twice those of the "
        "discriminative one; authors' code",
    )
    focal: Literal["paper", "anomalib"] = Field(
        "paper",
        description="focal loss over all pixels, gamma 2 (paper, section 3.2; code), or anomalib's, in which "
        "normal pixels weigh nothing",
    )
    rotation: float = Field(
        45.0, ge=0, le=180, description="largest rotation of a normal image in degrees; paper, section 4"
    )
    rotated: float = Field(
        0.3, ge=0, le=1, description="share of the normal images that is rotated; authors' code"
    )
    epochs: int = Field(
        700,
        ge=1,
        description="paper, section 4; the learning rate drops after 4/7 and 6/7 of them (400 and 600)",
    )
    batch_size: int = Field(8, ge=1, description="training images per step; authors' code")
    lr: float = Field(
        1e-4, gt=0, description="learning rate of Adam, times 0.1 at each drop; paper, section 4"
    )


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of −(1 − p)^γ log p, p the probability of a pixel's true class.

    Lin et al., 2017, eq. 4, as DRAEM's code uses it: both classes weigh alike.

    Args:
        logits: ``[B, 2, H, W]``.
        mask: 1 where anomalous, else 0, ``[B, 1, H, W]``.
        gamma: how little well classified pixels count.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, mask.long())
    return ((1 - log_p.exp()) ** gamma * -log_p).mean()


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotates each image of ``[B, C, S, S]`` by its angle ``[B]``, bilinear, zero outside."""
    radians = degrees.to(images) * torch.pi / 180
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    rows = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DRAEM(Method):
    """DRAEM (Zavrtanik, Kristan and Skočaj, 2021).

    Synthetic anomalies and initial weights draw from torch's global generator, which the harness seeds.

    Raises:
        ValueError: the images are smaller than 64 pixels.
    """

    version = 1
    Config = DRAEMConfig
    config: DRAEMConfig
    score_rule = "max of the map averaged over 21×21 pixels"
    citation = Citation(
        title="DRÆM: A Discriminatively Trained Reconstruction Embedding for Surface Anomaly Detection",
        authors="Zavrtanik, Vitjan and Kristan, Matej and Skočaj, Danijel",
        year=2021,
        venue="IEEE/CVF International Conference on Computer Vision",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2108.07610",
    )

    @classmethod
    def needs(cls, config: DRAEMConfig) -> Needs:
        """The textures; five poolings by 2 need a multiple of 32."""
        textures = TEXTURES if config.textures == "dtd" else PHOTOGRAPHS
        return Needs(
            assets=(textures,),
            image_size_multiple=32,
            image_size_least=SMALLEST,
            modules=("anomalib",),
            extra="anomalib",
        )

    @classmethod
    def remarks(cls, config: DRAEMConfig) -> tuple[str, ...]:
        """Names the stand-in."""
        if config.textures == "dtd":
            return ()
        return (
            "Its textures are cut from a few photographs of scikit-image's instead of the Describable "
            "Textures Dataset.",
        )

    def __init__(self, config: DRAEMConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        import_anomalib()
        from anomalib.models.image.draem.loss import DraemLoss
        from anomalib.models.image.draem.torch_model import (
            DiscriminativeSubNetwork,
            DraemModel,
            ReconstructiveSubNetwork,
        )

        with torch.device("meta"):
            self.model: nn.Module = DraemModel()
        self.model.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=config.width)
        self.model.discriminative_subnetwork = DiscriminativeSubNetwork(6, 2, base_width=config.width // 2)
        self.model.apply(_initialise).to(setup.device)
        self._terms: Any = DraemLoss().to(setup.device)

    def losses(self, X: Tensor, reconstruction: Tensor, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, of which the sum is minimised (paper, eq. 1 to 3, all weights 1).

        Args:
            X: normal images ``[B, 3, S, S]`` in [0, 1].
            reconstruction: of the images with anomalies, like ``X``.
            logits: ``[B, 2, S, S]``.
            mask: of the anomalies, ``[B, 1, S, S]``.
        """
        if self.config.focal == "paper":
            focal = focal_loss(logits, mask)
        else:
            focal = self._terms.focal_loss(logits, mask.squeeze(1).long())
        return {
            "l2": self._terms.l2_loss(reconstruction, X),
            "ssim": self._terms.ssim_loss(reconstruction, X) * 2,
            "focal": focal,
        }

    def _synthesiser(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Returns anomalib's maker of synthetic anomalies: images → images with anomalies, masks."""
        from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator

        folder = self.setup.asset((TEXTURES if self.config.textures == "dtd" else PHOTOGRAPHS).name)
        synthesiser = PerlinAnomalyGenerator(anomaly_source_path=folder, blend_factor=OPACITY)
        # A folder lists its files in any order, and the draws are by number.
        synthesiser.anomaly_source_paths = sorted(synthesiser.anomaly_source_paths, key=Path.as_posix)
        if not synthesiser.anomaly_source_paths:
            raise FileNotFoundError(f"There is no image in {folder}: fetch them again")
        return synthesiser  # type: ignore[no-any-return]

    def _rotated(self, X: Tensor, generator: torch.Generator) -> Tensor:
        if not (self.config.rotation and self.config.rotated):
            return X
        chosen, angle = torch.rand(2, len(X), generator=generator)
        degrees = (2 * angle - 1) * self.config.rotation * (chosen < self.config.rotated)
        return rotate(X, degrees)

    def _float(self, images: Tensor) -> Tensor:
        return images.to(self.setup.device).float() / 255

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains both networks at once; validation images are not used."""
        config = self.config
        synthesise = self._synthesiser()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=config.lr)
        drops = [config.epochs * 4 // 7, config.epochs * 6 // 7]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, drops, gamma=0.1)
        generator = torch.Generator().manual_seed(data.seed)
        parts = {"model": self.model, "optimiser": optimiser, "schedule": schedule, "generator": generator}
        for number in data.epochs(config.epochs, parts):
            self.model.train()
            totals: dict[str, Tensor] = {}
            for images in data.shuffled(config.batch_size, generator):
                X = self._rotated(self._float(images), generator)
                X_a, mask = synthesise(X)
                reconstruction, logits = self.model(X_a)
                terms = self.losses(X, reconstruction, logits, mask)
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * len(X)
            schedule.step()
            self.model.eval()
            means = {name: float(total) / len(data.train) for name, total in totals.items()}
            on_epoch(Epoch(number, config.epochs, means))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The map is the anomalous class's softmax, the score the paper's eq. 5 (window: code)."""
        self.model.eval()
        found = prediction(self.model(self._float(images)), self.setup.image_size)
        smooth = F.avg_pool2d(found.map[:, None], SCORE_WINDOW, stride=1, padding=SCORE_WINDOW // 2)
        return replace(found, score=smooth.amax(dim=(1, 2, 3)))

    def state_dict(self) -> dict[str, Tensor]:
        """Both networks."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.model.load_state_dict(dict(state))
