"""Batch normalisation of a frozen network as part of the convolution before it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

# Folded weights are rounded differently; anything above this is a network that does not allow folding.
_CLOSE = 1e-3


@torch.no_grad()
def fold_batch_norms(network: nn.Module, X: Tensor) -> bool:
    """Folds batch normalisations, in place, into the convolutions that feed them.

    With w, b of the convolution and γ, β, μ, σ² of the normalisation, w' = w γ / √(σ² + ε) and
    b' = β + (b - μ) γ / √(σ² + ε): the same function with one pass over the feature map less.

    Args:
        network: frozen, in evaluation mode; gives a sequence of tensors.
        X: an input ``[B, ...]``, by which it is found out what feeds what.

    Returns:
        Whether it was done. A network that would then give something else stays as it is, as one where
        something besides the normalisation reads what a convolution gives.
    """
    trial = copy.deepcopy(network)
    _fold(trial, X)
    same = all(
        bool((ours - theirs).abs().max() <= _CLOSE * theirs.abs().max())
        for ours, theirs in zip(trial(X), network(X), strict=True)
    )
    if same:
        _fold(network, X)
    return same


def _fold(network: nn.Module, X: Tensor) -> None:
    for conv, name, norm in _pairs(network, X):
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's normalisations hold the activation that follows.
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
        network.set_submodule(name, nn.Sequential(*rest))


def _pairs(network: nn.Module, X: Tensor) -> list[tuple[nn.Conv2d, str, Any]]:
    """Each convolution and the normalisation, with its name, that takes its output, seen as X passes."""
    # The outputs are held, so that no two have one id.
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, str, Any]] = []

    def watch(name: str, module: nn.Module) -> Any:
        if isinstance(module, nn.Conv2d):
            return module.register_forward_hook(lambda m, _, out: made.update({id(out): (m, out)}))

        def taken(norm: Any, args: tuple[Tensor, ...]) -> None:
            if id(args[0]) in made:
                found.append((made[id(args[0])][0], name, norm))

        return module.register_forward_pre_hook(taken)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [watch(name, m) for name, m in network.named_modules() if isinstance(m, kinds)]
    network(X)
    for hook in hooks:
        hook.remove()
    # A module that is called twice has two roles at once.
    used = [id(module) for conv, _, norm in found for module in (conv, norm)]
    return [pair for pair in found if used.count(id(pair[0])) == used.count(id(pair[2])) == 1]
