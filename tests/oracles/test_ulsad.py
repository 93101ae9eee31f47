"""ULSAD's networks, attention, losses, quantiles and maps against the values of the authors' own module.

The architecture is held to the paper's Tables 5 and 6 as well: as data, one row a layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.blur import gaussian_kernel
from methods.branches import attend, combine, distance, quantiles
from methods.ulsad import ULSAD, ULSADConfig
from methods.ulsad_networks import FeatureReconstructionNetwork, GlobalAutoencoder
from tests.methods.tiny import setup
from tests.oracles.agreement import Agree, against, filled, golden, relative

AUTHORS = "authors' module (Patra and Ben Taieb 2024)"
# Float32 in another order of summation; where a million terms are added, ten times as much.
EXACT, SUMS = 1e-5, 1e-4


class Given(ULSAD):
    """ULSAD whose frozen features are given: no backbone's weights are needed."""

    U: Tensor

    def features(self, images: Tensor) -> Tensor:
        """The golden U for the golden images."""
        return self.U


def _fill(layer: nn.Module, key: int, gain: float) -> None:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    fan = math.prod(layer.weight.shape[1:])
    layer.weight.data = (filled(tuple(layer.weight.shape), key) - 0.5) * 2 * math.sqrt(3 / fan) * gain


def _fill_norm(layer: nn.Module, mean: int, variance: int) -> None:
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    count = (layer.num_features,)
    layer.running_mean.copy_(0.2 * (filled(count, mean) - 0.5))
    layer.running_var.copy_(0.5 + filled(count, variance))


def _of(module: nn.Module, kinds: Any) -> Iterator[tuple[int, Any]]:
    return enumerate((layer for layer in module.modules() if isinstance(layer, kinds)), start=1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 ``[3, 3, 256, 256]``."""
    return (filled((3, 3, 256, 256), 900) * 256).floor().to(torch.uint8)


@pytest.fixture
def method(filled_once: ULSAD) -> ULSAD:
    """ULSAD with the golden weights, in evaluation mode."""
    return copy.deepcopy(filled_once)


@pytest.fixture(scope="module")
def filled_once() -> ULSAD:
    """Sines for 66 million weights take seconds."""

    class ImageNet:
        channels, reductions = (512, 1024), (8, 16)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    own = Given(
        ULSADConfig(output="relu"),
        replace(setup(256), load_features=lambda *_: ImageNet()),  # type: ignore[arg-type, return-value]
    )
    own.U = 3 * filled((3, 384, 32, 32), 901) - 1
    assert own.autoencoder is not None
    with torch.no_grad():
        for number, layer in _of(own.frn, nn.Conv2d | nn.ConvTranspose2d):
            _fill(layer, number, 1.4 if isinstance(layer, nn.Conv2d) else 2.0)
        for number, norm in _of(own.frn, nn.BatchNorm2d):
            norm.weight.copy_(0.5 + filled(tuple(norm.weight.shape), 100 + number))
            norm.bias.copy_(filled(tuple(norm.bias.shape), 200 + number) - 0.5)
            _fill_norm(norm, 300 + number, 400 + number)
        for number, layer in _of(own.autoencoder, nn.Conv2d):
            _fill(layer, 500 + number, 1.4)
            layer.bias.copy_(0.2 * (filled(tuple(layer.bias.shape), 600 + number) - 0.5))
        for number, norm in _of(own.autoencoder, nn.BatchNorm2d):
            _fill_norm(norm, 700 + number, 800 + number)
    own.modules().eval()
    return own


def test_networks_and_attention(method: ULSAD, images: Tensor, agree: Agree) -> None:
    values, U = golden("ulsad"), method.features(images)
    assert method.autoencoder is not None
    with torch.no_grad():
        U_hat = method.autoencoder(method.normalise(images))
        found = {
            "U": U,
            "frn_eval": torch.cat(method.reconstruct(U), dim=1),
            "autoencoder_eval": U_hat,
            "self_attention": attend(U.flatten(2), U.flatten(2)),
            "cross_attention": attend(U_hat.flatten(2), U.flatten(2)),
        }
    checks = {
        "U": "the recipe's features, N_θ's stand-in",
        "frn_eval": "N_ψ(U): Ũ′ and Ũ″",
        "autoencoder_eval": "N_φ(X): Û",
        "self_attention": "A, eq. 3",
        "cross_attention": "Â, eq. 4",
    }
    for name, check in checks.items():
        ours = found[name].reshape(values[name]["shape"])  # attention's positions are flat here
        agree("ULSAD", check, AUTHORS, against(values[name], ours), EXACT)


def test_maps_quantiles_and_scores(method: ULSAD, images: Tensor, agree: Agree) -> None:
    values = golden("ulsad")
    found = method.predict(images)
    maps = {"local_map": found.parts["local"], "global_map": found.parts["global"]}
    for name, ours in maps.items():
        entry = values[f"{name}_blurred_no_quantiles"]
        agree("ULSAD", f"{name.replace('_', ' ')}, blurred", AUTHORS, against(entry, ours[:, None]), EXACT)
    entry = values["map_no_quantiles"]
    agree("ULSAD", "M without quantiles", AUTHORS, against(entry, found.map[:, None]), EXACT)
    entry = values["score_no_quantiles"]
    agree("ULSAD", "score without quantiles", AUTHORS, against(entry, found.score), EXACT)

    raw = torch.stack(method.raw_maps(images))
    kernel = gaussian_kernel(4.0)
    q = quantiles(raw, (0.9, 0.995), kernel, 256, 2**24, torch.Generator())
    order = ("qa_local", "qb_local", "qa_global", "qb_global")
    theirs = [values["quantiles_of_blurred_maps"][name] for name in order]
    agree("ULSAD", "q_α and q_β of both branches", AUTHORS, relative(q.flatten(), theirs), EXACT)
    found = combine(list(raw), q, kernel, 256)
    entry = values["map_with_quantiles"]
    agree("ULSAD", "M with quantiles", AUTHORS, against(entry, found.map[:, None]), EXACT)
    agree(
        "ULSAD", "score with quantiles", AUTHORS, against(values["score_with_quantiles"], found.score), SUMS
    )


def test_losses_and_gradients(method: ULSAD, images: Tensor, agree: Agree) -> None:
    values, U = golden("ulsad"), method.features(images)
    found = _gradients(method, sum(_losses(method, images).values(), torch.zeros(())))
    theirs = values["loss_total_train_mode"]
    agree(
        "ULSAD", "L = L_pl + L_pg + L_lg, training mode", AUTHORS, relative(found.pop("loss"), theirs), EXACT
    )
    for name, norm in found.items():
        # Rounding of the bottleneck's batch norm over three numbers: see golden/README.md, and below.
        allowed = 5e-3 if "enconv6" in name else SUMS
        check = f"{name.replace('_', ' ')}, float32"
        agree("ULSAD", check, AUTHORS, relative(norm, values[name]["norm"]), allowed)

    method.modules().double()
    X, U = method.normalise(images).double(), U.double()
    assert method.autoencoder is not None
    local, through_global = method.frn(U)
    U_hat = method.autoencoder(X)
    Z, Z_hat = U.flatten(2), U_hat.flatten(2)
    terms = ((local, U), (attend(Z_hat, Z), attend(Z, Z)), (through_global, U_hat))
    found = _gradients(method, torch.stack([distance(a, b, 0.5).mean() for a, b in terms]).sum())
    values = golden("ulsad_float64")
    theirs = values["loss_total_train_mode"]
    agree("ULSAD", "L, training mode, float64", AUTHORS, relative(found.pop("loss"), theirs), EXACT)
    for name, norm in found.items():
        check = f"{name.replace('_', ' ')}, float64"
        agree("ULSAD", check, AUTHORS, relative(norm, values[name]["norm"]), EXACT)


def _losses(method: ULSAD, images: Tensor) -> dict[str, Tensor]:
    method.modules().train()
    return method.losses(method.normalise(images), method.features(images))


def _gradients(method: ULSAD, loss: Tensor) -> dict[str, float]:
    """The loss and the norms of two layers' gradients, by their names in the golden file."""
    assert method.autoencoder is not None
    method.modules().zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    layers = {
        "gradient_of_enconv6_weight": [layer for _, layer in _of(method.autoencoder, nn.Conv2d)][5],
        "gradient_of_frn_conv1_weight": next(layer for _, layer in _of(method.frn, nn.Conv2d)),
    }
    norms = {name: layer.weight.grad.double().norm().item() for name, layer in layers.items()}
    return {"loss": loss.item(), **norms}


# The paper's Tables 5 and 6, a row for each convolution as printed: layer, side that its input is
# interpolated to (0: none), kernel, stride, padding, channels, norm, activation.
Row = tuple[str, int, int, int, int, int, str, str]
FIELDS = ("input", "kernel", "stride", "padding", "channels", "norm", "activation")
TABLE_5: tuple[Row, ...] = (
    ("Conv1", 0, 3, 2, 1, 768, "BatchNorm", "ReLU"),
    ("Conv2", 0, 3, 2, 1, 1536, "BatchNorm", "ReLU"),
    ("Conv3", 0, 3, 1, 1, 1536, "BatchNorm", "ReLU"),
    ("DeConv1", 0, 4, 2, 1, 768, "BatchNorm", "ReLU"),
    ("DeConv2", 0, 4, 2, 1, 384, "BatchNorm", "ReLU"),
    ("DeConv3", 0, 5, 1, 1, 384, "BatchNorm", "ReLU"),
)
TABLE_6: tuple[Row, ...] = (
    ("EnConv1", 0, 4, 2, 1, 32, "BatchNorm", "ReLU"),
    ("EnConv2", 0, 4, 2, 1, 32, "BatchNorm", "ReLU"),
    ("EnConv3", 0, 4, 2, 1, 64, "BatchNorm", "ReLU"),
    ("EnConv4", 0, 4, 2, 1, 64, "BatchNorm", "ReLU"),
    ("EnConv5", 0, 4, 2, 1, 64, "BatchNorm", "ReLU"),
    ("EnConv6", 0, 8, 1, 1, 64, "BatchNorm", "ReLU"),
    ("DeConv1", 31, 4, 1, 2, 64, "BatchNorm", "ReLU"),
    ("DeConv2", 8, 4, 1, 2, 64, "BatchNorm", "ReLU"),
    ("DeConv3", 16, 4, 1, 2, 64, "BatchNorm", "ReLU"),
    ("DeConv4", 32, 4, 1, 2, 64, "BatchNorm", "ReLU"),
    ("DeConv5", 64, 4, 1, 2, 64, "BatchNorm", "ReLU"),
    ("DeConv6", 32, 3, 1, 1, 64, "BatchNorm", "ReLU"),
    ("DeConv7", 0, 3, 1, 1, 384, "", ""),
)
CODE = "the authors' code, whose numbers were published, has it so"
DEVIATIONS_5 = {
    ("Conv3", "activation"): ("", CODE),
    ("DeConv3", "padding"): (2, "1 does not give 32 x 32; " + CODE),
    ("DeConv3", "channels"): (768, "Ũ′ and Ũ″ are 384 each; " + CODE),
}
DEVIATIONS_6 = {
    ("EnConv6", "padding"): (0, "1 gives 3 x 3 positions, not one; " + CODE),
    ("DeConv1", "input"): (3, CODE),
    ("DeConv3", "input"): (15, CODE),
    ("DeConv4", "input"): (31, CODE),
    ("DeConv5", "input"): (63, CODE),
}


def _executed(network: nn.Module, given: Tensor) -> list[list[Any]]:
    """The convolutions of a forward pass in the order in which they run, as rows without names."""
    rows: list[list[Any]] = []
    side = 0

    def ran(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal side
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            at = inputs[0].shape[-1]
            interpolated = at if rows and at != side else 0
            shape = (layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.out_channels)
            rows.append([interpolated, *shape, "", ""])
        elif isinstance(layer, nn.BatchNorm2d):
            assert not rows[-1][-1], "a norm after the activation"
            rows[-1][-2] = "BatchNorm"
        else:
            rows[-1][-1] = type(layer).__name__
        side = output.shape[-1]

    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(ran)
    network.eval()(given)
    return rows


@pytest.mark.parametrize(
    ("title", "table", "deviations"),
    [("Table 5: N_ψ", TABLE_5, DEVIATIONS_5), ("Table 6: N_φ", TABLE_6, DEVIATIONS_6)],
)
def test_layers_are_the_papers(
    title: str, table: tuple[Row, ...], deviations: dict[tuple[str, str], tuple[Any, str]], agree: Agree
) -> None:
    with torch.device("meta"):
        if "N_ψ" in title:
            rows = _executed(FeatureReconstructionNetwork(384), torch.zeros(1, 384, 32, 32))
        else:
            rows = _executed(GlobalAutoencoder(384, 256), torch.zeros(1, 3, 256, 256))
    assert len(rows) == len(table)
    differing = {
        (name, field): ours
        for (name, *printed), found in zip(table, rows, strict=True)
        for field, theirs, ours in zip(FIELDS, printed, found, strict=True)
        if theirs != ours
    }
    assert differing == {place: value for place, (value, _) in deviations.items()}
    check = f"{title}, every layer's values but {len(deviations)} named deviations"
    agree("ULSAD", check, "the paper's table", len(differing) - len(deviations), 0, "items")


def test_the_global_autoencoder_has_twelve_batch_norms() -> None:
    norms = [layer for layer in GlobalAutoencoder(8, 256).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [(norm.affine, norm.eps) for norm in norms] == [(False, 1e-4)] * 12


def test_distance_is_the_papers_with_the_codes_mean() -> None:
    a, b = filled((1, 4, 1, 2), 1), filled((1, 4, 1, 2), 2)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(distance(a, b, 0.5), (a - b).square().sum(1) / 4 + 0.5 * (1 - cosine))
