"""Names of a backbone's layers: which there are, and which stand for a ResNet's of the same stride."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of the modules whose output a ResNet gives out.
_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
_PARAMETERS = ("layers", "layer")


def fitted(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns hyper-parameters whose layers are those of their backbone.

    Where no layers are given, a default such as ``layer2`` becomes the backbone's layer of the same stride.

    Args:
        given: hyper-parameters as they were given.
        defaults: default of every hyper-parameter.

    Raises:
        ValueError: a layer is named that the backbone does not have, or it has none of that stride.
    """
    values = dict(given)
    parameter = next((name for name in _PARAMETERS if _are_names(defaults.get(name))), None)
    backbone = str(values.get("backbone", defaults.get("backbone", ""))).partition("@file:")[0]
    if parameter is None or not ({"backbone", parameter} & values.keys()):
        return values
    strides = _strides(backbone)
    if strides is None:
        return values
    wanted = values.get(parameter, defaults[parameter])
    if isinstance(wanted, str) != isinstance(defaults[parameter], str) or not isinstance(wanted, str | list):
        return values  # of another type than it must be, which is found later
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if parameter not in values:
        names = [name if name in strides else _of_same_stride(name, backbone, strides) for name in names]
        values[parameter] = names[0] if isinstance(wanted, str) else names
    for name in names:
        if name not in strides:
            raise ValueError(f"backbone '{backbone}' has no layer '{name}'; {_known(strides)}")
    return values


def _are_names(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return bool(names) and isinstance(names, list) and all(name in _STRIDES for name in names)


def _of_same_stride(name: str, backbone: str, strides: Mapping[str, int]) -> str:
    found = [layer for layer, stride in strides.items() if stride == _STRIDES[name]]
    if not found:
        raise ValueError(
            f"backbone '{backbone}' has no layer of stride {_STRIDES[name]}, as the default '{name}' of a "
            f"ResNet is; {_known(strides)}"
        )
    # The deepest map of a stride is the most processed one.
    return found[-1]


def _known(strides: Mapping[str, int]) -> str:
    return "it has " + ", ".join(f"{layer} (stride {stride})" for layer, stride in strides.items())


def _strides(backbone: str) -> dict[str, int] | None:
    """Returns the stride of each layer that timm gives out; ``None`` for a network without such layers.

    A transformer's layers are blocks of one stride, and anomalib numbers them itself.
    """
    import timm
    import torch

    if not timm.is_model(backbone) or "vit" in backbone:
        return None
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(backbone, features_only=True).feature_info
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return None  # the model's own constructor says what it does not like
    return {str(one["module"]): int(one["reduction"]) for one in info.info}
