"""What ULSAD's AUROC owes to the digits it computes with: `python -m tests.bench.rounding mpdd/metal_plate`.

Short formats are imitated in float32: weights, inputs and outputs of every layer are rounded to the format,
sums are not, as on hardware that multiplies in it and adds in float32. That takes no such hardware, and each
network can be rounded alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.method import TrainingData
from harness.metrics.exact import image_metrics, pixel_metrics
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import find_weights
from methods.folding import fold_batch_norms
from methods.ulsad import ULSAD, ULSADConfig
from tests.bench.engine import LITE, Pictures, pictures

NETWORKS = {"N_θ": "backbone", "N_ψ": "frn", "N_φ": "autoencoder"}
BF16, FP16 = torch.bfloat16, torch.float16
FORMATS: tuple[dict[str, torch.dtype], ...] = (
    dict.fromkeys(NETWORKS, BF16),
    {"N_θ": BF16},
    {"N_ψ": BF16},
    {"N_φ": BF16},
    {"N_θ": FP16},
    {"N_θ": FP16, "N_ψ": BF16},
    dict.fromkeys(NETWORKS, FP16),
)


def round_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Rounds weights, inputs and outputs of every layer to the format, in place."""

    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    for layer in [m for m in network.modules() if not any(m.children())]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            for weights in layer.parameters():
                weights.data = rounded(weights.data)
        layer.register_forward_pre_hook(lambda _, given: tuple(rounded(x) for x in given))
        layer.register_forward_hook(lambda _, given, out: rounded(out))


def evaluate(method: ULSAD, found: Pictures) -> tuple[float, float, NDArray[Any]]:
    """Returns image AUROC, pixel AUROC and the images' scores ``[N]``."""
    predictions = [method.predict(batch) for batch in found.test.batches(32)]
    score = np.concatenate([p.score.numpy() for p in predictions])
    maps = np.concatenate([p.map.numpy() for p in predictions])
    image = image_metrics(score, found.labels.astype(int))["image_auroc"]
    return image, pixel_metrics(maps, found.masks.astype(np.uint8))["pixel_auroc"], score


def main() -> None:
    """Trains ULSAD in float32 and predicts with rounded networks; prints what each changes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("category", help="folder below $BENCH_SHARED/data, as mvtec/screw")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--train", type=int, default=40, help="training images at most")
    options = parser.parse_args()
    size = options.image_size
    folder = Path(os.environ["BENCH_SHARED"]) / "data" / options.category
    found = pictures(folder, size, options.train)
    with tempfile.TemporaryDirectory() as name:
        weights = {LITE: find_weights(LITE, Path(name))}
        given = make_setup(weights, {}, Surroundings(torch.device("cpu"), size, 0, Path(name)))
        torch.manual_seed(0)
        exact = ULSAD(ULSADConfig(backbone=LITE, epochs=options.epochs, lr=1e-3), given)
        exact.fit(TrainingData(found.train, found.train, 0), lambda _: None)
        anomalous, count = int(found.labels.sum()), len(found.labels)
        image, pixel, score = evaluate(exact, found)
        print(f"{count - anomalous} normal, {anomalous} anomalous images")  # noqa: T201
        print(f"float32: image AUROC {image:.5f}, pixel AUROC {pixel:.5f}")  # noqa: T201
        for formats in FORMATS:
            method = ULSAD(ULSADConfig(backbone=LITE), given)
            method.load_state_dict(exact.state_dict())
            # The harness lends one backbone to all methods.
            backbone: Any = deepcopy(method.backbone)
            method.backbone = backbone
            fold_batch_norms(backbone, method.normalise(torch.arange(size).byte().expand(1, 3, size, size)))
            for network, dtype in formats.items():
                round_layers(getattr(method, NETWORKS[network]), dtype)
            image_too, pixel_too, score_too = evaluate(method, found)
            what = ", ".join(f"{network} {str(dtype)[6:]}" for network, dtype in formats.items())
            moved = np.abs(score_too - score).mean() / score.std()
            print(  # noqa: T201
                f"{what}: image {image_too - image:+.5f}, pixel {pixel_too - pixel:+.5f}, "
                f"scores move by {moved:.1e} of their standard deviation",
                flush=True,
            )


if __name__ == "__main__":
    main()
