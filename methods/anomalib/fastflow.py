"""FastFlow: a two-dimensional normalising flow on each feature map, from anomalib.

J. Yu, Y. Zheng, X. Wang, W. Li, Y. Wu, R. Zhao, L. Wu, "FastFlow: Unsupervised Anomaly Detection and
Localization via 2D Normalizing Flows", 2021 (arXiv:2111.07677). The authors published no code; where the
paper is silent, the choices are those of github.com/gathierry/FastFlow, which anomalib follows too.

Flows, loss and map are anomalib's; they are assembled here, because its model knows four backbones only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.method import Citation, Epoch, Method, Needs, Prediction, Setup, TrainingData
from methods.anomalib.base import BackboneConfig, FeatureMaps, backbone_needs, import_anomalib, train


class FastFlowConfig(BackboneConfig):
    """Hyper-parameters; the defaults are those of gathierry/FastFlow for Wide-ResNet50-2."""

    strides: tuple[int, ...] = Field(
        (4, 8, 16), min_length=1, description="layers 1 to 3 of a ResNet; gathierry/FastFlow"
    )
    flow_steps: int = Field(8, ge=1, description="coupling blocks per map for ResNets; gathierry/FastFlow")
    conv3x3_only: bool = Field(
        False, description="no 1×1 convolutions in between; gathierry/FastFlow: only for resnet18"
    )
    hidden_ratio: float = Field(
        1.0, gt=0, description="hidden channels of a subnet per input channel; gathierry/FastFlow"
    )
    epochs: int = Field(500, ge=1, description="gathierry/FastFlow")
    batch_size: int = Field(32, ge=1, description="gathierry/FastFlow")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam; gathierry/FastFlow")
    weight_decay: float = Field(1e-5, ge=0, description="gathierry/FastFlow")


class Flows(nn.Module):
    """A layer normalisation and a flow for each feature map.

    Args:
        shapes: ``(C, h, w)`` of each feature map.
        config: the hyper-parameters.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], config: FastFlowConfig) -> None:
        from anomalib.models.image.fastflow.torch_model import create_fast_flow_block

        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        self.fast_flow_blocks = nn.ModuleList(
            create_fast_flow_block(
                list(shape), config.conv3x3_only, config.hidden_ratio, flow_steps=config.flow_steps
            )
            for shape in shapes
        )

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps → hidden variables of the same shapes, and log-determinants ``[B]``."""
        pairs = [flow(norm(y)) for norm, flow, y in zip(self.norms, self.fast_flow_blocks, maps, strict=True)]
        return [z for z, _ in pairs], [jacobian for _, jacobian in pairs]


class FastFlow(Method):
    """FastFlow (Yu et al., 2021)."""

    version = 1
    Config = FastFlowConfig
    config: FastFlowConfig
    citation = Citation(
        title="FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows",
        authors="Yu, Jiawei and Zheng, Ye and Wang, Xiang and Li, Wei and Wu, Yushuang and Zhao, Rui and "
        "Wu, Liwei",
        year=2021,
        venue="arXiv preprint arXiv:2111.07677",
        licence="Apache-2.0",
        url="https://arxiv.org/abs/2111.07677",
    )

    @classmethod
    def needs(cls, config: FastFlowConfig) -> Needs:
        """The backbone's ImageNet weights, and anomalib."""
        return backbone_needs(config)

    def __init__(self, config: FastFlowConfig, setup: Setup) -> None:
        import_anomalib()
        from anomalib.models.image.fastflow import FastflowLoss
        from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator

        super().__init__(config, setup)
        size = setup.image_size
        self.maps = FeatureMaps(setup, config.backbone, config.strides, size)
        self.flows = Flows(self.maps.shapes, config).to(setup.device).eval()
        self._loss = FastflowLoss()
        self._generator = AnomalyMapGenerator((size, size))

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam over the flows and the layer normalisations."""
        config = self.config
        return torch.optim.Adam(self.flows.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def loss(self, maps: list[Tensor]) -> Tensor:
        """Negative log-likelihood, summed over positions and maps, mean over the batch."""
        loss: Tensor = self._loss(*self.flows(maps))
        return loss

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains the flows for a fixed number of epochs; validation images are not used."""
        config = self.config
        train(
            self.flows,
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
        """Mean over the maps of −exp(−mean(z²)/2), bilinear to the image; its maximum is the score."""
        hidden, _ = self.flows(self.maps(images))
        maps = self._generator(hidden)
        return Prediction(score=maps.amax(dim=(1, 2, 3)), map=maps[:, 0])

    def state_dict(self) -> dict[str, Tensor]:
        """The flows and layer normalisations."""
        return dict(self.flows.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.flows.load_state_dict(dict(state))
