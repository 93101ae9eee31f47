"""MyMethod: an anomaly detector that learns from normal images only.

As it stands: every pixel has a mean and a spread over the training images, and is as anomalous as it is far
from them. Replace this by your own, from top to bottom; the comments say what each part is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness import Citation, Epoch, Hyperparameters, Method, Prediction, TrainingData


class MyMethod(Method):
    """Distance to the mean training image, in standard deviations."""

    # Raise it when results change: records of another version are never taken for this one's.
    version = 1
    citation = Citation(title="MyMethod", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        """Hyper-parameters, with your paper's values; `MyMethod[radius=0]` or --set changes them."""

        radius: int = Field(2, ge=0, le=8, description="maps are averaged over 2 radius + 1 pixels")

    config: Config

    # A method that wants a pretrained network declares it, and then asks for it in `fit` by
    # `self.setup.load_features("resnet18", (8, 16))`; `bench prepare` downloads it, a run never does:
    #
    #     @classmethod
    #     def needs(cls, config: Config) -> Needs:
    #         return Needs(backbones={"resnet18": (8, 16)})

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Learns from normal images.

        `data.train` and `data.validation` (for thresholds and statistics) hold normal images; there is no way
        to the test images.
        """
        total = squares = torch.zeros((), device=self.setup.device)
        for images in data.train.batches(32):  # uint8 [<=32, 3, S, S]
            x = self._scaled(images)
            total = total + x.sum(dim=0)
            squares = squares + x.square().sum(dim=0)
        self.mean = total / len(data.train)
        variance = squares / len(data.train) - self.mean.square()
        self.spread = (variance.clamp(min=0) + 1e-3).sqrt()
        # Called at the end of every epoch; `predict` must work by then. A training that goes on after an
        # interruption names what changes from one epoch to the next:
        #
        #     for number in data.epochs(100, {"network": self.network, "optimiser": optimiser}):
        #         ...
        #         on_epoch(Epoch(number, 100, {"loss": loss}))
        on_epoch(Epoch(1, 1))

    def predict(self, images: Tensor) -> Prediction:
        """Scores a batch, uint8 `[B, 3, S, S]`; each image by itself, whatever else is in the batch."""
        far = ((self._scaled(images) - self.mean) / self.spread).square().mean(dim=1).sqrt()
        side = 2 * self.config.radius + 1
        maps = F.avg_pool2d(far[:, None], side, 1, self.config.radius, count_include_pad=False)[:, 0]
        return Prediction(
            score=maps.amax(dim=(1, 2)), map=maps
        )  # [B] and [B, S, S], higher is more anomalous

    def state_dict(self) -> dict[str, Tensor]:
        """Returns everything learned, so that a trained method can be kept and used again."""
        return {"mean": self.mean, "spread": self.spread}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        self.mean = state["mean"].to(self.setup.device)
        self.spread = state["spread"].to(self.setup.device)

    def _scaled(self, images: Tensor) -> Tensor:
        return images.to(self.setup.device).float() / 255
