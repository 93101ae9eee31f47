"""Every image model of the installed anomalib as a method: ``anomalib:Stfpm[layers=[layer1,layer2]]``.

A model's hyper-parameters are those of its constructor. Training follows anomalib's own recipe (its
optimiser, its schedule) for the length that anomalib states, see ``RECIPES``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, create_model

from harness.method import Citation, Hyperparameters, Method, Needs
from methods.anomalib.generic import AnomalibModel
from methods.anomalib.signatures import Source, image_models

_OURS = ["pre_processor", "post_processor", "evaluator", "visualizer", "pre_trained", "precision"]

_DOWNLOADS = "downloads a data set or weights of its own when training starts"
# Why a model cannot run here; a model of anomalib that is in no table is tried.
REASONS: Mapping[str, str] = {
    "AnomalyVFM": "fetches its own weights from a model hub when it is built",
    "CFM": "needs point clouds beside images, and weights from a hub",
    "Cfa": "takes torchvision's weights from the internet when it is built",
    "Csflow": "takes torchvision's weights from the internet when it is built",
    "Draem": f"{_DOWNLOADS}; the method 'draem' runs here",
    "Dsr": _DOWNLOADS,
    "EfficientAd": f"{_DOWNLOADS}; the method 'efficientad' runs here",
    "Glass": _DOWNLOADS,
    "UniNet": "takes torchvision's weights from the internet, and trains on labelled images",
    "VlmAd": "needs a vision-language service",
    "WinClip": "needs CLIP from a hub and text prompts",
}

# Length of training, epochs or steps, where the model itself does not state one: from anomalib's example
# configurations (Stfpm, Ganomaly, Uflow, Patchflow, Fre), its models' constants (Dinomaly, InpFormer,
# GeneralAD) or, where neither says, the paper (Supersimplenet: Rolih et al. 2024, 300 epochs).
RECIPES: Mapping[str, Mapping[str, int]] = {
    "Dinomaly": {"steps": 5000},
    "Fre": {"epochs": 6},
    "Ganomaly": {"epochs": 100},
    "GeneralAD": {"epochs": 160},
    "InpFormer": {"epochs": 200},
    "Patchflow": {"epochs": 200},
    "Stfpm": {"epochs": 100},
    "Supersimplenet": {"epochs": 300},
    "Uflow": {"epochs": 200},
}

# Passes over the training images of models that gather features instead of training; they are not to be set.
PASSES: Mapping[str, int] = {
    "AnomalyDINO": 1,
    "Dfkde": 1,
    "Dfm": 1,
    "MHPatchcore": 3,
    "Padim": 1,
    "Patchcore": 1,
    "Rad": 1,
    "SuperADD": 1,
}

# Networks that a model takes beside those its parameters name.
_NETWORKS: Mapping[str, tuple[str, ...]] = {
    "L2BT": ("vit_base_patch14_reg4_dinov2",),
    "mcait": ("cait_m48_448", "cait_s24_224"),
    "dinov2_vit_base_14": ("vit_base_patch14_dinov2.lvd142m",),
}
NOTES: Mapping[str, str] = {
    "Dfkde": "scores images only: its map is the score everywhere",
    "Fre": "input_dim must fit backbone, layer and image size (65536: ResNet-50, layer3, 256 px)",
    "Ganomaly": "scores images only: its map is the score everywhere",
    "Supersimplenet": "its noise needs images of 256 px or more; ends in a sigmoid",
    "Uflow": "its default backbone mcait needs images of 448 px",
}


def models() -> Mapping[str, str]:
    """Returns every image model of the installed anomalib, and why it cannot run here (empty if it can)."""
    return {name: REASONS.get(name, "") for name in image_models()}


def load(name: str) -> type[Method]:
    """Returns the method of a model.

    Raises:
        KeyError: anomalib has no such image model, or it cannot run here.
    """
    source = image_models()[name]
    if name in REASONS:
        raise KeyError(name)
    return type(
        f"Anomalib{name}",
        (AnomalibModel,),
        {
            "__doc__": f"{source.about}, as anomalib has it. {NOTES.get(name, '')}".strip(),
            "__module__": __name__,
            "source": source,
            "passes": PASSES.get(name, 0),
            "note": NOTES.get(name, ""),
            "Config": _config(source),
            "citation": _citation(source),
            "needs": classmethod(lambda _, config: _needs(source, config)),
        },
    )


def _config(source: Source) -> type[Hyperparameters]:
    recipe = RECIPES.get(source.name, {})
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default)
        for name, parameter in source.parameters.items()
        if name not in _OURS
    }
    fields["batch_size"] = (int, Field(32, ge=1, description="training images per step; anomalib's default"))
    for name in () if source.name in PASSES else ("epochs", "steps"):
        about = f"{name} of training; ends with the first of epochs and steps that is given"
        fields[name] = (int | None, Field(recipe.get(name), ge=1, description=about))
    made: type[Hyperparameters] = create_model(
        f"{source.name}Config", __base__=Hyperparameters, __module__=__name__, **fields
    )
    return made


def _citation(source: Source) -> Citation:
    return Citation(
        title=f"{source.about} ({source.name}), as implemented in Anomalib: A Deep Learning Library for "
        "Anomaly Detection",
        authors="Akcay, Samet and Ameln, Dick and Vaidya, Ashwin and Lakshmanan, Barath and "
        "Ahuja, Nilesh and Genc, Utku",
        year=2022,
        venue="IEEE International Conference on Image Processing",
        licence="Apache-2.0",
        url=source.url,
    )


def _needs(source: Source, config: Any) -> Needs:
    names = [
        getattr(config, parameter) for parameter in ("backbone", "encoder_name") if hasattr(config, parameter)
    ]
    networks = [network for name in [source.name, *names] for network in _networks(source, name)]
    patches = [int(match[1]) for network in networks if (match := re.search(r"_patch(\d+)", network))]
    return Needs(
        backbones=dict.fromkeys(networks, ()),
        image_size_multiple=patches[0] if patches else 32,
        modules=("anomalib",),
        extra="anomalib",
    )


def _networks(source: Source, name: str) -> tuple[str, ...]:
    return _NETWORKS.get(name, () if name == source.name else (name,))
