"""What some of anomalib's models take beside timm's networks, and how they get it from the harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.method import Asset, Setup
from methods.anomalib.draem import TEXTURES
from methods.anomalib.networks import only_file, torchvision_asset

# DSR's autoencoder, as anomalib's own download (models/image/dsr/lightning_model.py, 2.7.0) names it.
QUANTISED = Asset(
    "dsr-autoencoder",
    "DSR's quantised autoencoder, trained on ImageNet",
    "Apache-2.0",
    url="https://github.com/open-edge-platform/anomalib/releases/download/dsr_pretrained_weights/"
    "dsr_vq_model_pretrained.zip",
    sha256="52fe7504ec8e9df70b4382f287ab26269dcfe000cd7a7e146a52c6f146f34afb",
)

# Of torchvision's networks: the parameters that name them, or the one that is always taken.
_TORCHVISION: Mapping[str, tuple[str, ...]] = {
    "Cfa": ("backbone",),
    "UniNet": ("teacher_backbone",),
}
_ALWAYS: Mapping[str, str] = {"Csflow": "efficientnet_b5"}
# Parameters that the harness sets.
_SET: Mapping[str, frozenset[str]] = {"Glass": frozenset({"anomaly_source_path", "input_shape"})}


def takes_torchvision(model: str) -> bool:
    """Whether a model's networks are torchvision's and not timm's."""
    return model in _TORCHVISION or model in _ALWAYS


def set_here(model: str) -> frozenset[str]:
    """Returns the parameters of a model's constructor that are not to be chosen."""
    return _SET.get(model, frozenset())


def torchvision_assets(model: str, config: Any) -> tuple[Asset, ...]:
    """Returns the weights of torchvision's that a model takes.

    Raises:
        ValueError: torchvision has no such network.
    """
    names = {getattr(config, parameter) for parameter in _TORCHVISION.get(model, ())}
    names |= {_ALWAYS[model]} if model in _ALWAYS else set()
    return tuple(torchvision_asset(name) for name in sorted(names))


def assets(model: str, config: Any) -> tuple[Asset, ...]:
    """Returns all assets of a model."""
    others = {"Draem": (TEXTURES,), "Dsr": (QUANTISED,), "Glass": (TEXTURES,)}.get(model, ())
    return (*torchvision_assets(model, config), *others)


def arguments(model: str, setup: Setup) -> dict[str, Any]:
    """Returns what the constructor of a model is given beside what the configuration says."""
    size = (setup.image_size, setup.image_size)
    made: Mapping[str, Callable[[], dict[str, Any]]] = {
        "Draem": lambda: {"dtd_dir": setup.asset(TEXTURES.name)},
        "Glass": lambda: {"anomaly_source_path": str(setup.asset(TEXTURES.name)), "input_shape": size},
    }
    return made[model]() if model in made else {}


def kind(model: str, theirs: Any, setup: Setup) -> Any:
    """Returns the Lightning class to build: anomalib's, or one that takes what it downloads from here."""
    if model != "Dsr":
        return theirs

    def prepared() -> Path:
        return only_file(setup, QUANTISED.name, "*.pckl")

    return type(theirs.__name__, (theirs,), {"prepare_pretrained_model": staticmethod(prepared)})
