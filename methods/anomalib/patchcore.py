"""PatchCore: distance to the nearest of a selection of normal patch features, from anomalib.

K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022 (arXiv:2106.08265).

anomalib's model embeds, searches and weights; the coreset is :mod:`methods.anomalib.coreset`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

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
    one_by_one,
)
from methods.anomalib.coreset import greedy_coreset, sparse_projection
from methods.blur import blur, gaussian_kernel

BATCH = 16


class PatchCoreConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of the paper's PatchCore-10% on MVTec AD."""

    strides: tuple[int, ...] = Field(
        (8, 16), min_length=1, description="layers 2 and 3 of a ResNet; paper, section 3.1, and authors' code"
    )
    coreset: float = Field(
        0.1, gt=0, le=1, description="share of the patches that is kept; PatchCore-10%, paper, table 1"
    )
    neighbours: int = Field(
        9, ge=1, description="b of the weighted score (paper, eq. 7); anomalib's value; 1 weights nothing"
    )
    upsample: Literal["bilinear", "nearest"] = Field(
        "bilinear", description="from patches to pixels; paper, section 3.3; anomalib takes nearest"
    )
    center_crop: float = Field(
        0.875, gt=0, le=1, description="share of the side that is kept, 224 of 256; paper, section 4.1"
    )


class PatchCore(Method):
    """PatchCore (Roth et al., 2022)."""

    version = 1
    Config = PatchCoreConfig
    config: PatchCoreConfig
    citation = Citation(
        title="Towards Total Recall in Industrial Anomaly Detection",
        authors="Roth, Karsten and Pemula, Latha and Zepeda, Joaquin and Schölkopf, Bernhard and "
        "Brox, Thomas and Gehler, Peter",
        year=2022,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2106.08265",
    )
    score_rule = "weighted distance of the farthest patch"

    @classmethod
    def needs(cls, config: PatchCoreConfig) -> Needs:
        """The backbone's ImageNet weights, and anomalib."""
        return backbone_needs(config)

    def __init__(self, config: PatchCoreConfig, setup: Setup) -> None:
        import_anomalib()
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        super().__init__(config, setup)
        self._crop = CentreCrop(setup.image_size, config.center_crop)
        self._maps = FeatureMaps(setup, config.backbone, config.strides, self._crop.inner)
        # The constructor builds a network by name; this small one is dropped for the harness's backbone.
        self._model = PatchcoreModel(
            backbone="resnet18", layers=["layer1"], pre_trained=False, num_neighbors=config.neighbours
        )
        self._model.layers = list(range(len(config.strides)))
        self._model.feature_extractor = None
        self._model.to(setup.device).eval()
        self._kernel = gaussian_kernel(SIGMA).to(setup.device)

    def _embed(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → ``[B, C, h, w]``: means over 3×3 patches, on the finest map's grid."""
        maps = self._maps(self._crop.crop(images))
        pooled = {i: self._model.feature_pooler(y) for i, y in enumerate(maps)}
        embedding: Tensor = self._model.generate_embedding(pooled)
        return embedding

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Collects the patches of all training images and keeps a coreset; validation images are not used."""
        batches = [self._model.reshape_embedding(self._embed(b)) for b in data.train.batches(BATCH)]
        patches = torch.cat(batches)
        self._model.memory_bank = patches[self._select(patches, data.seed)]
        on_epoch(Epoch(1, 1))

    def _select(self, patches: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        projection = sparse_projection(len(patches), patches.shape[1], generator)
        start = int(torch.randint(len(patches), (1,), generator=generator))
        count = max(1, int(len(patches) * self.config.coreset))
        return greedy_coreset(patches @ projection.to(patches.device), count, start)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Distance of each patch to its nearest in memory, upsampled and blurred with σ = 4.

        The score is that of the farthest patch, weighted by its neighbourhood in memory (paper, eq. 6 and 7).
        Outside the centre crop the map repeats the crop's edge.
        """
        if not len(self._model.memory_bank):
            raise RuntimeError("PatchCore.predict was called before fit or load_state_dict")
        return self._crop.restore(one_by_one(self._predict_one, images))

    def _predict_one(self, image: Tensor) -> Prediction:
        model, inner = self._model, self._crop.inner
        embedding = self._embed(image)
        patches = model.reshape_embedding(embedding)
        distances, nearest = (y.reshape(1, -1) for y in model.nearest_neighbors(patches, n_neighbors=1))
        score = model.compute_anomaly_score(distances, nearest, patches)
        grid = distances.reshape(1, 1, *embedding.shape[-2:])
        maps = F.interpolate(grid, (inner, inner), mode=self.config.upsample)
        return Prediction(score=score, map=blur(maps[:, 0], self._kernel))

    def state_dict(self) -> dict[str, Tensor]:
        """The memory, ``[patches, C]``."""
        return {"memory_bank": self._model.memory_bank}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._model.memory_bank = state["memory_bank"].to(self.setup.device)
