"""Pretrained networks for code that builds them by name and would ask a hub for their weights.

anomalib's constructors ask timm and torchvision for pretrained networks; there is no parameter for weights
from elsewhere. Both libraries have a way of their own to say where a network comes from, and that is used for
as long as a model is built: timm's registry of networks, and the folder of torch's hub.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.method import Asset, Setup

State = Mapping[str, Tensor]


@contextmanager
def timm_networks(states: Mapping[str, State | None]) -> Iterator[None]:
    """Lets timm build pretrained networks from these weights.

    Args:
        states: state dicts by timm name, as timm publishes them; ``None`` for random weights.

    Raises:
        RuntimeError: within, a network is asked for with pretrained weights that are not among them.
    """
    from timm.models import model_entrypoint, register_model

    architectures = {name.partition(".")[0] for name in states}
    originals = {name: model_entrypoint(name) for name in sorted(architectures)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a registered network is registered anew
        try:
            for name, original in originals.items():
                register_model(_with_weights(name, original, states))
            yield
        finally:
            # timm reads the rest of a network's entry from its module again.
            for original in originals.values():
                register_model(original)


def _with_weights(
    architecture: str, original: Callable[..., nn.Module], states: Mapping[str, State | None]
) -> Callable[..., nn.Module]:
    """Returns timm's function for an architecture, its pretrained weights taken from ``states``."""

    @functools.wraps(original)
    def build(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        if not pretrained:
            return original(pretrained=False, pretrained_cfg=pretrained_cfg, **options)
        name = f"{architecture}.{pretrained_cfg}" if isinstance(pretrained_cfg, str) else architecture
        if name not in states:
            raise RuntimeError(f"the weights of '{name}' are asked for, which are not among its needs")
        state = states[name]
        if state is None:
            return original(pretrained=False, pretrained_cfg=pretrained_cfg, **options)
        # timm takes out of the mapping what it does not want.
        source = {"state_dict": dict(state), "hf_hub_id": None, "url": "", "file": ""}
        options["pretrained_cfg_overlay"] = (options.get("pretrained_cfg_overlay") or {}) | source
        network = original(pretrained=True, pretrained_cfg=pretrained_cfg, **options)
        network.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
        return network

    return build


def torchvision_asset(name: str) -> Asset:
    """Returns torchvision's default weights of a network; a file's name ends in its checksum."""
    from torchvision.models import get_model_weights

    url = str(get_model_weights(name).DEFAULT.url)
    return Asset(
        f"torchvision-{name.replace('_', '-')}",
        f"torchvision's ImageNet weights of {name}",
        "BSD-3-Clause",
        url=url,
        sha256=url.rpartition("-")[2].removesuffix(".pth"),
    )


@contextmanager
def torchvision_networks(setup: Setup, assets: Sequence[Asset]) -> Iterator[None]:
    """Lets torchvision find its weights in the assets of :func:`torchvision_asset`.

    Raises:
        ValueError: an asset's folder holds no weights.
    """
    if not assets:
        yield
        return
    hub = setup.scratch / "torch-hub"
    (hub / "checkpoints").mkdir(parents=True, exist_ok=True)
    for asset in assets:
        link = hub / "checkpoints" / asset.url.rpartition("/")[2]
        link.unlink(missing_ok=True)
        link.symlink_to(only_file(setup, asset.name, "*.pth"))
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(hub))
    try:
        yield
    finally:
        torch.hub.set_dir(before)


def only_file(setup: Setup, asset: str, pattern: str) -> Path:
    """Returns the file of an asset that matches a pattern.

    Raises:
        ValueError: there is none, or there are several.
    """
    folder = setup.asset(asset)
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise ValueError(f"The asset folder {folder} holds {len(found)} files {pattern}: put one there.")
    return found[0].resolve()
