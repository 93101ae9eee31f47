"""DRAEM, a discriminatively trained reconstruction embedding for surface anomaly detection.

V. Zavrtanik, M. Kristan, D. Skočaj, ICCV 2021 (arXiv:2108.07610), with anomalib's networks. Pieces of foreign
textures are blended into normal images; one network learns to paint the normal image back, a second one,
which sees the image beside its reconstruction, learns to mark the pieces.

Synthetic anomalies, losses, initial weights, map and score are those of the authors' code
(github.com/VitjanZ/DRAEM, commit 2dbf673), with which they agree in value. Where the paper states something
else than the code (rotation, opacity, schedule), the paper is followed, and the code by ``variant=authors``.
anomalib 2.7 differs in its losses, its textures, its masks and its score; see ``docs/methods/draem.md``.

``textures=photographs`` is a stand-in for machines without the Describable Textures Dataset. No published
number was made with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
    Method,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.anomalib.base import import_anomalib, prediction
from methods.anomalib.synthetic import SyntheticAnomalies

TEXTURES = Asset(
    "dtd",
    "Describable Textures Dataset: 5,640 images that DRAEM makes its synthetic anomalies from",
    "for research purposes, see the dataset's page",
    url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
)
SMALLEST = 64
SCORE_WINDOW = 21
# Where the authors' code differs from the paper: data_loader.py, lines 92 and 126; train_DRAEM.py, line 47
AUTHORS = {"rotation": 90.0, "least_opacity": 0.2, "schedule": "authors"}
# Shares of the epochs after which the learning rate drops, and what it is multiplied by
SCHEDULES = {"paper": ((4 / 7, 6 / 7), 0.1), "authors": ((0.8, 0.9), 0.2)}


class DRAEMConfig(Hyperparameters):
    """Hyper-parameters; the defaults are those of the paper, else of the authors' code."""

    variant: Literal["paper", "authors"] = Field(
        "paper",
        description="whose defaults 'rotation', 'least_opacity' and 'schedule' have, the paper's or those of "
        "the authors' code: 90, 0.2 and authors",
    )
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
    rotation: float = Field(
        45.0, ge=0, le=180, description="largest rotation of a normal image in degrees; paper, section 4"
    )
    rotated: float = Field(
        0.3, ge=0, le=1, description="share of the normal images that is rotated; authors' code"
    )
    least_opacity: float = Field(
        0.1, ge=0, le=1, description="least opacity of a texture, the largest is 1; paper, eq. 4"
    )
    schedule: Literal["paper", "authors"] = Field(
        "paper",
        description="the learning rate times 0.1 after 4/7 and 6/7 of the epochs (400 and 600 of 700; paper, "
        "section 4), or times 0.2 after 80 and 90 % of them (authors' code)",
    )
    epochs: int = Field(700, ge=1, description="paper, section 4")
    batch_size: int = Field(8, ge=1, description="training images per step; authors' code")
    lr: float = Field(1e-4, gt=0, description="first learning rate of Adam; paper, section 4")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, given: Any) -> Any:
        authors = isinstance(given, dict) and given.get("variant") == "authors"
        return {**AUTHORS, **given} if authors else given


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0, smooth: float = 1e-5) -> Tensor:
    """Mean over pixels of −(1 − p)^γ log p, p the probability of a pixel's true class, smoothed.

    Lin et al., 2017, eq. 4, as the authors' code has it (``loss.py``, lines 72 to 82): both classes weigh
    alike, and p is (1 − s) p + s (1 − p) + s, so that no pixel costs more than −log 2s.

    Args:
        logits: ``[B, 2, H, W]``.
        mask: 1 where anomalous, else 0, ``[B, 1, H, W]``.
        gamma: how little well classified pixels count.
        smooth: s.
    """
    true = F.softmax(logits, dim=1).gather(1, mask.long())
    p = (1 - smooth) * true + smooth * (1 - true) + smooth
    return ((1 - p) ** gamma * -p.log()).mean()


def ssim_loss(reconstruction: Tensor, X: Tensor, sigma: float = 1.5, radius: int = 5) -> Tensor:
    """1 − the mean structural similarity (Wang et al., 2004) over Gaussian windows of 11×11 pixels.

    As the authors' code has it (``loss.py``, lines 97 to 145): zeros outside the image, and values are taken
    to range over 1, or over 2 as soon as a reconstruction falls below −0.5.

    Args:
        reconstruction: ``[B, C, H, W]``.
        X: images in [0, 1], like ``reconstruction``.
        sigma: of the windows in pixels.
        radius: of the windows in pixels.
    """
    channels = X.shape[1]
    offsets = torch.arange(-radius, radius + 1, device=X.device, dtype=X.dtype)
    weights = F.softmax(-(offsets**2) / (2 * sigma**2), dim=0)
    down = weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)

    def windowed(x: Tensor) -> Tensor:
        x = F.conv2d(x, down, padding=(radius, 0), groups=channels)
        return F.conv2d(x, down.transpose(2, 3), padding=(0, radius), groups=channels)

    span = 1 + (reconstruction.detach().min() < -0.5).to(X.dtype)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    one, other = windowed(reconstruction), windowed(X)
    variances = windowed(reconstruction**2) - one**2 + windowed(X**2) - other**2
    covariance = windowed(reconstruction * X) - one * other
    similarity = (2 * one * other + c1) * (2 * covariance + c2)
    return 1 - (similarity / ((one**2 + other**2 + c1) * (variances + c2))).mean()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DRAEM(Method):
    """DRAEM (Zavrtanik, Kristan and Skočaj, 2021).

    Initial weights draw from torch's global generator, which the harness seeds.

    Raises:
        ValueError: the images are smaller than 64 pixels.
    """

    version = 2
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
            modules=("anomalib.models",),
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

    def losses(self, X: Tensor, reconstruction: Tensor, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, of which the sum is minimised (paper, eq. 1 to 3, all weights 1).

        Args:
            X: normal images ``[B, 3, S, S]`` in [0, 1].
            reconstruction: of the images with anomalies, like ``X``.
            logits: ``[B, 2, S, S]``.
            mask: of the anomalies, ``[B, 1, S, S]``.
        """
        return {
            "l2": F.mse_loss(reconstruction, X),
            "ssim": ssim_loss(reconstruction, X),
            "focal": focal_loss(logits, mask),
        }

    def _synthesiser(self, generator: torch.Generator) -> SyntheticAnomalies:
        config = self.config
        folder = self.setup.asset((TEXTURES if config.textures == "dtd" else PHOTOGRAPHS).name)
        opacity = (config.least_opacity, 1.0)
        return SyntheticAnomalies(folder, opacity, config.rotation, config.rotated, generator)

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains both networks at once; validation images are not used."""
        config = self.config
        generator = torch.Generator().manual_seed(data.seed)
        synthesise = self._synthesiser(generator)
        optimiser = torch.optim.Adam(self.model.parameters(), lr=config.lr)
        shares, decay = SCHEDULES[config.schedule]
        drops = [round(config.epochs * share) for share in shares]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, drops, gamma=decay)
        parts = {"model": self.model, "optimiser": optimiser, "schedule": schedule, "generator": generator}
        for number in data.epochs(config.epochs, parts):
            self.model.train()
            totals: dict[str, Tensor] = {}
            for images in data.shuffled(config.batch_size, generator):
                X, X_a, mask = (part.to(self.setup.device) for part in synthesise(images))
                reconstruction, logits = self.model(X_a)
                terms = self.losses(X, reconstruction, logits, mask)
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * len(X)
            schedule.step()
            self.model.eval()
            trained = data.images_per_epoch(config.batch_size)
            means = {name: float(total) / trained for name, total in totals.items()}
            on_epoch(Epoch(number, config.epochs, means))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The map is the anomalous class's softmax, the score the paper's eq. 5 (window: code)."""
        self.model.eval()
        found = prediction(self.model(images.to(self.setup.device).float() / 255), self.setup.image_size)
        smooth = F.avg_pool2d(found.map[:, None], SCORE_WINDOW, stride=1, padding=SCORE_WINDOW // 2)
        return replace(found, score=smooth.amax(dim=(1, 2, 3)))

    def state_dict(self) -> dict[str, Tensor]:
        """Both networks."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.model.load_state_dict(dict(state))
