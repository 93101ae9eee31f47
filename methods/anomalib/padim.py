"""PaDiM: a Gaussian per position over features of several layers, from anomalib.

T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly
Detection and Localization", ICPR Workshops 2021 (arXiv:2011.08785).

anomalib's model computes the map; the Gaussians are fitted here, all positions at once instead of in a
loop, with the same formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harness.method import Citation, Epoch, Method, Needs, Prediction, Setup, TrainingData
from methods.anomalib.base import (
    SIGMA,
    BackboneConfig,
    CentreCrop,
    FeatureMaps,
    backbone_needs,
    import_anomalib,
)
from methods.blur import blur, gaussian_kernel

# Section IV-B of the paper: the number of randomly chosen channels for each of its backbones.
PAPER_CHANNELS: Mapping[str, int] = {"resnet18": 100, "wide_resnet50_2": 550}
CHUNK_BYTES = 256 * 1024**2
BATCH = 16


class PaDiMConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of the paper's WR50-Rd550 on MVTec AD."""

    strides: tuple[int, ...] = Field(
        (4, 8, 16), min_length=1, description="layers 1 to 3 of a ResNet; paper, section III-A"
    )
    channels: int | None = Field(
        None,
        ge=1,
        description="randomly chosen channels; by default 550 for wide_resnet50_2 (paper) and 100 for "
        "others (paper: for resnet18), at most as many as there are",
    )
    regularisation: float = Field(
        0.01, gt=0, description="ε on the covariance's diagonal; paper, section III-B"
    )
    center_crop: float = Field(
        0.875, gt=0, le=1, description="share of the side that is kept, 224 of 256; paper, section IV-B"
    )


def fit_gaussians(features: Tensor, regularisation: float) -> tuple[Tensor, Tensor]:
    """Returns mean and inverse covariance of the features at each position (paper, eq. 1).

    The diagonal gets a further 1e-5, as anomalib adds it. One image alone has covariance zero.

    Args:
        features: ``[N, C, P]``, P positions.
        regularisation: ε, added to the diagonal.

    Returns:
        Means ``[C, P]`` and inverse covariances ``[P, C, C]``.
    """
    count, channels, positions = features.shape
    mean = features.mean(dim=0)
    inverse = torch.empty(positions, channels, channels, device=features.device)
    diagonal = (regularisation + 1e-5) * torch.eye(channels, device=features.device)
    chunk = max(1, CHUNK_BYTES // (4 * channels * (channels + count)))
    for start in range(0, positions, chunk):
        part = slice(start, start + chunk)
        centred = (features[:, :, part] - mean[:, part]).permute(2, 0, 1).contiguous()
        covariance = centred.transpose(1, 2) @ centred / max(count - 1, 1)
        inverse[part] = torch.cholesky_inverse(torch.linalg.cholesky(covariance + diagonal))
    return mean, inverse


class PaDiM(Method):
    """PaDiM (Defard et al., 2021)."""

    version = 1
    Config = PaDiMConfig
    config: PaDiMConfig
    citation = Citation(
        title="PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
        authors="Defard, Thomas and Setkov, Aleksandr and Loesch, Angelique and Audigier, Romaric",
        year=2021,
        venue="ICPR International Workshops and Challenges",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2011.08785",
    )

    @classmethod
    def needs(cls, config: PaDiMConfig) -> Needs:
        """The backbone's ImageNet weights, and anomalib."""
        return backbone_needs(config)

    def __init__(self, config: PaDiMConfig, setup: Setup) -> None:
        import_anomalib()
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

        super().__init__(config, setup)
        self._crop = CentreCrop(setup.image_size, config.center_crop)
        self._maps = FeatureMaps(setup, config.backbone, config.strides, self._crop.inner)
        self._generator = AnomalyMapGenerator().to(setup.device)
        self._kernel = gaussian_kernel(SIGMA).to(setup.device)
        self._fitted: dict[str, Tensor] = {}

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Chooses channels by the seed and fits a Gaussian per position; validation images are not used."""
        total = sum(c for c, _, _ in self._maps.shapes)
        wanted = self.config.channels or PAPER_CHANNELS.get(self.config.backbone.partition(".")[0], 100)
        generator = torch.Generator().manual_seed(data.seed)
        chosen = torch.randperm(total, generator=generator)[: min(wanted, total)]
        self._fitted = {"channels": chosen.to(self.setup.device)}
        embeddings = [self._embed(batch).flatten(2) for batch in data.train.batches(BATCH)]
        mean, inverse = fit_gaussians(torch.cat(embeddings), self.config.regularisation)
        self._fitted |= {"mean": mean, "inverse_covariance": inverse}
        on_epoch(Epoch(1, 1))

    def _embed(self, images: Tensor) -> Tensor:
        """The chosen channels ``[B, C, h, w]`` in their order; only they are brought to the finest grid."""
        maps = self._maps(self._crop.crop(images))
        finest = maps[0].shape[-2:]
        chosen, begin = self._fitted["channels"], 0
        parts, places = [], []
        for y in maps:
            own = ((chosen >= begin) & (chosen < begin + y.shape[1])).nonzero()[:, 0]
            parts.append(F.interpolate(y.index_select(1, chosen[own] - begin), size=finest, mode="nearest"))
            places.append(own)
            begin += y.shape[1]
        return torch.cat(parts, dim=1).index_select(1, torch.cat(places).argsort())

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Mahalanobis distance per position, bilinear to the image, σ = 4; its maximum is the score.

        Outside the centre crop the map repeats the crop's edge.
        """
        if "mean" not in self._fitted:
            raise RuntimeError("PaDiM.predict was called before fit or load_state_dict")
        gaussians = [self._fitted["mean"], self._fitted["inverse_covariance"]]
        distances = self._generator.compute_distance(self._embed(images), gaussians)
        maps = self._generator.up_sample(distances, (self._crop.inner, self._crop.inner))
        maps = blur(maps[:, 0], self._kernel)
        return self._crop.restore(Prediction(score=maps.amax(dim=(1, 2)), map=maps))

    def state_dict(self) -> dict[str, Tensor]:
        """The chosen channels, means ``[C, P]`` and inverse covariances ``[P, C, C]``."""
        return dict(self._fitted)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._fitted = {name: tensor.to(self.setup.device) for name, tensor in state.items()}
