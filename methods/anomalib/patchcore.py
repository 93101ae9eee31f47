"""PatchCore: distance to the nearest of a selection of normal patch features, from anomalib.

K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022 (arXiv:2106.08265).

anomalib's model embeds, searches and weights; the coreset is :mod:`methods.anomalib.coreset`'s. The variant
``authors`` computes what the authors' published code does, see :mod:`methods.patchcore_authors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
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
from methods.patchcore_authors import AuthorsMemory

BATCH = 16


class PatchCoreConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of the paper's PatchCore-10% on MVTec AD."""

    variant: Literal["anomalib", "authors"] = Field(
        "anomalib",
        description="whose patches, selection and scores: anomalib's and the paper's, or the authors' "
        "published code's, which differ; needs no anomalib",
    )
    strides: tuple[int, ...] = Field(
        (8, 16), min_length=1, description="layers 2 and 3 of a ResNet; paper, section 3.1, and authors' code"
    )
    coreset: float = Field(
        0.1, gt=0, le=1, description="share of the patches that is kept; PatchCore-10%, paper, table 1"
    )
    neighbours: int = Field(
        9,
        ge=1,
        description="b of the weighted score (paper, eq. 7); anomalib's value; 1 weights nothing. With "
        "variant=authors a patch's distance is the mean over so many, and the default is 1",
    )
    upsample: Literal["bilinear", "nearest"] = Field(
        "bilinear", description="from patches to pixels; paper, section 3.3; anomalib takes nearest"
    )
    center_crop: float = Field(
        0.875, gt=0, le=1, description="share of the side that is kept, 224 of 256; paper, section 4.1"
    )

    @model_validator(mode="before")
    @classmethod
    def _authors_neighbours(cls, given: Any) -> Any:
        is_theirs = isinstance(given, dict) and given.get("variant") == "authors"
        return {"neighbours": 1, **given} if is_theirs else given

    @model_validator(mode="after")
    def _authors_upsample(self) -> PatchCoreConfig:
        if self.variant == "authors" and self.upsample != "bilinear":
            raise ValueError(
                "the authors' code upsamples bilinearly: leave 'upsample' away, or give variant=anomalib"
            )
        return self


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
    score_rule = "distance of the farthest patch, weighted or (variant=authors) squared"

    @classmethod
    def needs(cls, config: PatchCoreConfig) -> Needs:
        """The backbone's ImageNet weights; and anomalib, but for the authors' variant."""
        if config.variant == "authors":
            return Needs(backbones={config.backbone: config.strides})
        return backbone_needs(config)

    def __init__(self, config: PatchCoreConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._crop = CentreCrop(setup.image_size, config.center_crop)
        self._maps = FeatureMaps(setup, config.backbone, config.strides, self._crop.inner)
        self._memory = (
            AuthorsMemory(config.neighbours, setup.device)
            if config.variant == "authors"
            else AnomalibsMemory(config, setup.device)
        )

    def _embed(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → patches ``[B, h, w, C]``, on the finest map's grid."""
        return self._memory.embed(self._maps(self._crop.crop(images)))

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Collects the patches of all training images and keeps a coreset; validation images are not used."""
        patches = torch.cat([self._embed(batch).flatten(0, 2) for batch in data.train.batches(BATCH)])
        count = max(1, int(len(patches) * self.config.coreset))
        generator = torch.Generator().manual_seed(data.seed)
        self._memory.memory = patches[self._memory.select(patches, count, generator)]
        on_epoch(Epoch(1, 1))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Distance of each patch to its nearest in memory, upsampled and blurred with σ = 4.

        The score is that of the farthest patch, weighted by its neighbourhood in memory (paper, eq. 6 and 7);
        in the authors' variant distances are squared and nothing is weighted. Outside the centre crop the
        map repeats the crop's edge.
        """
        if not len(self._memory.memory):
            raise RuntimeError("PatchCore.predict was called before fit or load_state_dict")
        return self._crop.restore(one_by_one(self._predict_one, images))

    def _predict_one(self, image: Tensor) -> Prediction:
        return self._memory.score(self._embed(image), self._crop.inner)

    def state_dict(self) -> dict[str, Tensor]:
        """The memory, ``[patches, C]``."""
        return {"memory_bank": self._memory.memory}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._memory.memory = state["memory_bank"].to(self.setup.device)


class AnomalibsMemory:
    """anomalib's model, without its backbone, and with another search for the same coreset.

    Args:
        config: the hyper-parameters.
        device: where it computes.
    """

    def __init__(self, config: PatchCoreConfig, device: torch.device) -> None:
        import_anomalib()
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        # The constructor builds a network by name; this small one is dropped for the harness's backbone.
        self._model = PatchcoreModel(
            backbone="resnet18", layers=["layer1"], pre_trained=False, num_neighbors=config.neighbours
        )
        self._model.layers = list(range(len(config.strides)))
        self._model.feature_extractor = None
        self._model.to(device).eval()
        self._upsample = config.upsample
        self._kernel = gaussian_kernel(SIGMA).to(device)

    @property
    def memory(self) -> Tensor:
        """The patches that are kept, ``[patches, C]``."""
        kept: Tensor = self._model.memory_bank
        return kept

    @memory.setter
    def memory(self, patches: Tensor) -> None:
        self._model.memory_bank = patches

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps ``[B, C_i, h_i, w_i]`` → means over 3×3 patches, ``[B, h, w, C]``."""
        pooled = {i: self._model.feature_pooler(y) for i, y in enumerate(maps)}
        embedding: Tensor = self._model.generate_embedding(pooled)
        return embedding.permute(0, 2, 3, 1)

    def select(self, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Returns the numbers ``[count]`` of the rows ``[N, C]`` to keep."""
        projection = sparse_projection(len(rows), rows.shape[1], generator)
        start = int(torch.randint(len(rows), (1,), generator=generator))
        return greedy_coreset(rows @ projection.to(rows.device), count, start)

    def score(self, embedding: Tensor, size: int) -> Prediction:
        """Patches ``[1, h, w, C]`` → the weighted distance as score, and the map of side ``size``."""
        model = self._model
        patches = embedding.flatten(0, 2)
        distances, nearest = (y.reshape(1, -1) for y in model.nearest_neighbors(patches, n_neighbors=1))
        score = model.compute_anomaly_score(distances, nearest, patches)
        grid = distances.reshape(1, 1, *embedding.shape[1:3])
        maps = F.interpolate(grid, (size, size), mode=self._upsample)
        return Prediction(score=score, map=blur(maps[:, 0], self._kernel))
