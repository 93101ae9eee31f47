"""CFLOW-AD: a normalising flow over feature vectors, conditioned on their position, from anomalib.

D. Gudovskiy, S. Ishizaka, K. Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization
via Conditional Normalizing Flows", WACV 2022 (arXiv:2107.12571), with the choices of the authors' code
(github.com/gudovskiy/cflow-ad).

Decoders, position code and likelihood are anomalib's. Its model is not used whole: its map depends on what
else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.method import Citation, Epoch, Images, Method, Needs, Prediction, Setup, TrainingData
from methods.anomalib.base import BackboneConfig, FeatureMaps, backbone_needs, import_anomalib, step

BATCH = 16
FIBRES = 4096


class CFlowConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of the authors' code for MVTec AD, on their torch 1.8."""

    strides: tuple[int, ...] = Field(
        (8, 16, 32), min_length=1, description="layers 2 to 4 of a ResNet; paper, section 4, and code"
    )
    coupling_blocks: int = Field(8, ge=1, description="per decoder; paper, section 5.1, and code")
    condition_vector: int = Field(
        128, ge=4, multiple_of=4, description="length of the position code; paper, section 5.1, and code"
    )
    clamp_alpha: float = Field(1.9, gt=0, description="of the affine coupling; paper, eq. 2, and code")
    permute_soft: bool = Field(
        True, description="random rotations instead of permutations between blocks; code (anomalib: no)"
    )
    fibre_batch: int = Field(256, ge=1, description="feature vectors per step; code (anomalib: 64)")
    epochs: int = Field(25, ge=1, description="meta-epochs; code")
    sub_epochs: int = Field(8, ge=1, description="passes over the training images per meta-epoch; code")
    batch_size: int = Field(32, ge=1, description="images whose feature vectors are mixed; code")
    lr: float = Field(2e-4, gt=0, description="learning rate of Adam; paper, section 5.1, and code")
    schedule: bool = Field(
        True,
        description="two meta-epochs of warm-up, then cosine decay to lr/1000; code (anomalib: constant)",
    )
    rotation: float = Field(
        5.0,
        ge=0,
        le=180,
        description="largest rotation of a training image in degrees; code (anomalib: none)",
    )
    reflect: bool = Field(
        True, description="a ResNet's convolutions pad by reflection; code (anomalib: by zeros)"
    )
    idle_momentum: bool = Field(
        True,
        description="a step of one decoder also moves the others by their momentum, as torch 1.8 did, "
        "which the code ran on (anomalib: no)",
    )


def learning_rate(progress: float, epochs: int, lr: float, warm: int = 2) -> float:
    """Returns the learning rate of the authors' schedule (``custom_models/utils.py``).

    It rises linearly from a tenth of ``lr`` to where the cosine is after ``warm`` meta-epochs; from there it
    follows the cosine by whole meta-epochs.

    Args:
        progress: meta-epochs done, with the share of the present one.
        epochs: how many there will be.
        lr: peak.
        warm: meta-epochs of warm-up.
    """
    least = lr * 0.1**3

    def cosine(epoch: int) -> float:
        return least + (lr - least) * (1 + math.cos(math.pi * epoch / epochs)) / 2

    if progress < warm:
        return lr / 10 + progress / warm * (cosine(warm) - lr / 10)
    return cosine(int(progress))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotates each image about its middle, to the nearest pixel, black outside, as Pillow does.

    Args:
        images: uint8 ``[B, C, S, S]``.
        degrees: ``[B]``, anticlockwise.
    """
    radians = degrees.to(images.device, torch.float64) * torch.pi / 180
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    rows = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images.double(), grid, mode="nearest", align_corners=False).to(images.dtype)


def is_resnet(backbone: str) -> bool:
    """Whether a timm name is of a ResNet, the networks that the authors' code pads by reflection."""
    return backbone.startswith(("resnet", "resnext", "wide_resnet"))


class CFlow(Method):
    """CFLOW-AD (Gudovskiy et al., 2022).

    Raises:
        ValueError: the images are too small for padding by reflection.
    """

    version = 2
    Config = CFlowConfig
    config: CFlowConfig
    citation = Citation(
        title="CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via Conditional "
        "Normalizing Flows",
        authors="Gudovskiy, Denis and Ishizaka, Shun and Kozuka, Kazuki",
        year=2022,
        venue="IEEE/CVF Winter Conference on Applications of Computer Vision",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2107.12571",
    )

    @classmethod
    def needs(cls, config: CFlowConfig) -> Needs:
        """The backbone's ImageNet weights, and anomalib."""
        return backbone_needs(config)

    def __init__(self, config: CFlowConfig, setup: Setup) -> None:
        import_anomalib()
        from anomalib.models.image.cflow.utils import cflow_head, get_logp, positional_encoding_2d

        super().__init__(config, setup)
        reflect = config.reflect and is_resnet(config.backbone)
        if reflect and setup.image_size < 2 * max(config.strides):
            raise ValueError(
                f"{config.backbone} pads by reflection, which needs images of at least "
                f"{2 * max(config.strides)} pixels: give larger ones, or set reflect=false"
            )
        self.maps = FeatureMaps(setup, config.backbone, config.strides, setup.image_size, reflect)
        self._log_density: Callable[[int, Tensor, Tensor], Tensor] = get_logp
        self.decoders = nn.ModuleList(
            cflow_head(
                config.condition_vector, config.coupling_blocks, config.clamp_alpha, c, config.permute_soft
            )
            for c, _, _ in self.maps.shapes
        ).to(setup.device)
        self._positions = [
            positional_encoding_2d(config.condition_vector, h, w).flatten(1).T.to(setup.device)
            for _, h, w in self.maps.shapes
        ]
        self.highest = torch.zeros(len(self.maps.shapes), device=setup.device)

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam over all decoders."""
        return torch.optim.Adam(self.decoders.parameters(), lr=self.config.lr)

    def _log_likelihood(self, level: int, fibres: Tensor, positions: Tensor) -> Tensor:
        """Feature vectors ``[n, C]`` and position codes ``[n, P]`` → log-likelihood per channel ``[n]``."""
        z, jacobian = self.decoders[level](fibres, [positions])
        channels = fibres.shape[1]
        return self._log_density(channels, z, jacobian) / channels

    def train_batch(
        self, optimiser: torch.optim.Optimizer, maps: list[Tensor], generator: torch.Generator
    ) -> Tensor:
        """Steps once per batch of feature vectors, decoder by decoder, on −log σ(log-likelihood per channel).

        The vectors of all images and positions are mixed; the last batch also takes the remainder.

        Returns:
            Sum of the losses of all feature vectors, float64.
        """
        total = torch.zeros((), dtype=torch.float64, device=maps[0].device)
        for level, y in enumerate(maps):
            fibres = y.flatten(2).transpose(1, 2).flatten(0, 1)
            positions = self._positions[level].repeat(len(y), 1)
            order = torch.randperm(len(fibres), generator=generator).to(y.device)
            batches = max(1, len(fibres) // self.config.fibre_batch)
            for number in range(batches):
                first = number * self.config.fibre_batch
                last = first + self.config.fibre_batch if number < batches - 1 else len(fibres)
                rows = order[first:last]
                loss = -F.logsigmoid(self._log_likelihood(level, fibres[rows], positions[rows]))
                total += step(optimiser, loss.mean(), self.config.idle_momentum).double() * len(rows)
        return total

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains the decoders; the highest likelihoods are taken from the normal validation images."""
        config = self.config
        features = None if config.rotation else self.maps.keep(data.train)
        generator = torch.Generator().manual_seed(data.seed)
        optimiser = self.optimiser()
        trained = data.images_per_epoch(config.batch_size)
        steps = math.ceil(trained / config.batch_size) * config.sub_epochs
        fibres = trained * config.sub_epochs * sum(h * w for _, h, w in self.maps.shapes)
        parts = {"decoders": self.decoders, "optimiser": optimiser, "generator": generator}
        for number in data.epochs(config.epochs, parts):
            if config.idle_momentum:
                # A checkpoint holds no gradients; without them, idle decoders would stand still after one.
                for weight in optimiser.state:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
            self.decoders.train()
            total, done = torch.zeros((), dtype=torch.float64, device=self.setup.device), 0
            for _ in range(config.sub_epochs):
                for rows in data.shuffled_rows(config.batch_size, generator):
                    if config.schedule:
                        rate = learning_rate(number - 1 + done / steps, config.epochs, config.lr)
                        optimiser.param_groups[0]["lr"] = rate
                    if features is None:
                        maps = self.maps(self._rotated(data.train.batch(rows), generator))
                    else:
                        maps = self.maps.split(features.batch(rows))
                    total += self.train_batch(optimiser, maps, generator)
                    done += 1
            self.decoders.eval()
            self.highest = self._highest(data.validation)
            on_epoch(Epoch(number, config.epochs, {"loss": float(total) / fibres}))

    def _rotated(self, images: Tensor, generator: torch.Generator) -> Tensor:
        share = 2 * torch.rand(len(images), generator=generator) - 1
        return rotate(images.to(self.setup.device), share * self.config.rotation)

    def _highest(self, images: Images) -> Tensor:
        """Returns the highest log-likelihood of each level over the images, ``[levels]``."""
        found = [
            torch.stack([y.max() for y in self.log_likelihoods(batch)]) for batch in images.batches(BATCH)
        ]
        return torch.stack(found).amax(dim=0)

    @torch.no_grad()
    def log_likelihoods(self, images: Tensor) -> list[Tensor]:
        """uint8 ``[B, 3, S, S]`` → log-likelihood per channel at each position, ``[B, h, w]`` per level."""
        found = []
        for level, y in enumerate(self.maps(images)):
            fibres = y.flatten(2).transpose(1, 2).flatten(0, 1)
            positions = self._positions[level].repeat(len(y), 1)
            parts = [
                self._log_likelihood(level, f, p)
                for f, p in zip(torch.split(fibres, FIBRES), torch.split(positions, FIBRES), strict=True)
            ]
            found.append(torch.cat(parts).reshape(len(y), *y.shape[-2:]))
        return found

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Minus the sum of the levels' likelihoods, relative to their highest on validation images.

        The authors' code takes the highest over all test images, anomalib over the batch: test images
        decide how the levels are weighted. Bilinear, aligned corners; the map's maximum is the score.
        """
        size = (self.setup.image_size, self.setup.image_size)
        maps = torch.zeros(len(images), *size, device=self.setup.device)
        for level, y in enumerate(self.log_likelihoods(images)):
            likelihood = torch.exp(y - self.highest[level])[:, None]
            maps -= F.interpolate(likelihood, size=size, mode="bilinear", align_corners=True)[:, 0]
        return Prediction(score=maps.amax(dim=(1, 2)), map=maps)

    def state_dict(self) -> dict[str, Tensor]:
        """The decoders, and the highest log-likelihood of each level."""
        return {**self.decoders.state_dict(), "highest": self.highest}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        rest = dict(state)
        self.highest = rest.pop("highest").to(self.setup.device)
        self.decoders.load_state_dict(rest)
