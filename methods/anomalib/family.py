"""Every image model of the installed anomalib as a method: ``anomalib:Stfpm[layers=[layer1,layer2]]``.

A model's hyper-parameters are those of its constructor. Training follows anomalib's own recipe (its
optimiser, its schedule) for the length that anomalib states, see ``RECIPES``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, create_model, model_validator

from harness.method import Citation, Hyperparameters, Method, Needs
from methods.anomalib import peculiar
from methods.anomalib.generic import AnomalibModel
from methods.anomalib.layers import fitted
from methods.anomalib.measured import read
from methods.anomalib.signatures import Source, image_models

_OURS = ["pre_processor", "post_processor", "evaluator", "visualizer", "pre_trained", "precision"]

# Why a model cannot run here; a model of anomalib that is in no table is tried.
REASONS: Mapping[str, str] = {
    "AnomalyVFM": "takes its weights from nowhere but the Hugging Face hub, when it is built",
    "CFM": "needs point clouds beside images",
    "EfficientAd": "scales its maps in the Engine's validation; the method 'efficientad' runs here",
    "VlmAd": "needs a vision-language service",
    "WinClip": "needs the package open_clip, CLIP from a hub, and text prompts",
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
    **{
        f"{family}_vit_{size}_{patch}": (f"vit_{size}_patch{patch}_{family}.{tag}",)
        for family, patch, tag in (("dinov2", 14, "lvd142m"), ("dinov3", 16, "lvd1689m"))
        for size in ("small", "base", "large")
    },
}
# Layers that a model takes where none are named, and does not tell.
_LAYERS: Mapping[str, list[str]] = {"Glass": ["layer2", "layer3"]}
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


def measured() -> Mapping[str, str]:
    """Returns what tests have measured of the models that run here, for people."""
    found = read()
    return {name: found[name].words() if name in found else "not measured" for name in models()}


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
        if name not in _OURS and name not in peculiar.set_here(source.name)
    }
    if source.name in _LAYERS:
        fields["layers"] = (list[str], _LAYERS[source.name])
    fields["batch_size"] = (int, Field(32, ge=1, description="training images per step; anomalib's default"))
    for name in () if source.name in PASSES else ("epochs", "steps"):
        about = f"{name} of training; ends with the first of epochs and steps that is given"
        fields[name] = (int | None, Field(recipe.get(name), ge=1, description=about))
    defaults = {name: field[1] for name, field in fields.items()}

    def fit_layers(values: Any) -> Any:
        return fitted(values, defaults) if isinstance(values, Mapping) else values

    checked: Any = model_validator(mode="before")(fit_layers)
    made: type[Hyperparameters] = create_model(
        f"{source.name}Config",
        __base__=Hyperparameters,
        __module__=__name__,
        __validators__={"fit_layers": checked},
        **fields,
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
    names = [] if peculiar.takes_torchvision(source.name) else [source.name]
    names += [
        getattr(config, name) for name in ("backbone", "encoder_name") if names and hasattr(config, name)
    ]
    networks = [network for name in names for network in _networks(source, name)]
    patches = [int(match[1]) for network in networks if (match := re.search(r"_patch(\d+)", network))]
    return Needs(
        backbones=dict.fromkeys(networks, ()),
        assets=peculiar.assets(source.name, config),
        image_size_multiple=patches[0] if patches else 32,
        modules=("anomalib.models",),
        extra="anomalib",
    )


def _networks(source: Source, name: str) -> tuple[str, ...]:
    return _NETWORKS.get(name, () if name == source.name else (name,))
