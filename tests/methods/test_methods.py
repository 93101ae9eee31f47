"""ULSAD and DFR against their papers: equations, layers, sizes, training and state."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.execution.checkpoint import Checkpoint
from harness.method import Epoch, Images, Method, TrainingData
from methods import branches, dfr, ulsad
from methods.blur import blur, gaussian_kernel
from methods.branches import attend, distance
from methods.dfr import DFR, DFRConfig, resize_and_average
from methods.ulsad import ULSAD, ULSADConfig
from methods.ulsad_networks import GlobalAutoencoder
from tests.methods.interruption import NothingGathered, StoppedError, assert_resumes_to_the_same_bits
from tests.methods.tiny import TinyBackbone, images, setup


def build(name: str, **params: object) -> Method:
    torch.manual_seed(0)
    if name == "dfr":
        return DFR(DFRConfig.model_validate({"backbone": "tiny", "epochs": 3, **params}), setup())
    return ULSAD(ULSADConfig.model_validate({"backbone": "tiny", "epochs": 2, "blur": 1, **params}), setup())


@pytest.mark.parametrize("name", ["ulsad", "dfr"])
def test_interrupted_anywhere_a_training_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    data = TrainingData(images(), images(4, seed=1), 0)
    assert_resumes_to_the_same_bits(lambda: build(name, epochs=4), data, images(seed=2), tmp_path / "c")


@pytest.mark.slow
def test_ulsad_interrupted_at_twenty_random_steps_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int.from_bytes(os.urandom(4))
    data = TrainingData(images(), images(4, seed=1), 0)
    # Four steps an epoch; an attempt gets one epoch further at most, and so never to the end.
    params = {"epochs": 22, "batch_size": 2, "channels": 8}
    whole = build("ulsad", **params)
    whole.fit(data, lambda _: None)
    saved = Checkpoint(
        tmp_path / "c", {"torch": torch.__version__}, torch.device("cpu"), NothingGathered(), every=0
    )
    left = 0

    def losses(method: ULSAD, X: Tensor, U: Tensor) -> dict[str, Tensor]:
        nonlocal left
        left -= 1
        if left == 0:
            raise StoppedError
        return own(method, X, U)

    own = ULSAD.losses
    monkeypatch.setattr(ULSAD, "losses", losses)
    for steps in np.random.default_rng(seed).integers(1, 8, 20).tolist():
        left = steps
        with pytest.raises(StoppedError):
            build("ulsad", **params).fit(replace(data, checkpoints=saved), lambda _: None)
    seen: list[int] = []
    resumed = build("ulsad", **params)
    resumed.fit(replace(data, checkpoints=saved), lambda epoch: seen.append(epoch.number))
    assert 1 < seen[0] < seen[-1] == 22, seed
    found = resumed.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.state_dict().items()), seed


def fit(method: Method, data: Images | None = None) -> list[Epoch]:
    epochs: list[Epoch] = []
    train = data or images()
    torch.manual_seed(0)
    method.fit(TrainingData(train, images(4, seed=1), 0), epochs.append)
    return epochs


# ULSAD's equations, re-derived with loops in float64


def loop_distance(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """eq. 1, 5, 6, 7, 8: mean squared difference plus λ (1 − cos), position by position."""
    batch, channels, positions = a.shape
    out = np.zeros((batch, positions))
    for i in range(batch):
        for k in range(positions):
            x, y = a[i, :, k], b[i, :, k]
            l_v = sum((x[c] - y[c]) ** 2 for c in range(channels)) / channels
            l_d = 1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
            out[i, k] = l_v + weight * l_d
    return out


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_distance_is_squared_error_plus_weighted_cosine(weight: float) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 5, 7))
    found = distance(torch.from_numpy(a), torch.from_numpy(b), weight)
    np.testing.assert_allclose(found.numpy(), loop_distance(a, b, weight), rtol=1e-12)


def loop_attend(queries: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """eq. 3 and 4: for each query the softmax over all keys of ⟨key, query⟩ / √c*."""
    batch, channels, positions = Z.shape
    out = np.zeros_like(queries)
    for i in range(batch):
        for q in range(positions):
            scores = np.array([Z[i, :, k] @ queries[i, :, q] / math.sqrt(channels) for k in range(positions)])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            out[i, :, q] = sum(weights[k] * Z[i, :, k] for k in range(positions))
    return out


def test_attention_runs_over_the_keys() -> None:
    rng = np.random.default_rng(1)
    Z, queries = rng.normal(size=(2, 4, 9)), rng.normal(size=(2, 4, 9))
    found = attend(torch.from_numpy(queries), torch.from_numpy(Z))
    np.testing.assert_allclose(found.numpy(), loop_attend(queries, Z), rtol=1e-10)


def test_loss_terms_are_the_papers() -> None:
    method = build("ulsad", lambda_l=0.3, lambda_g=0.7)
    assert isinstance(method, ULSAD)
    batch = images().batch(range(3))
    X, U = method.normalise(batch), method.features(batch)
    method.modules().eval()
    terms = method.losses(X, U)
    assert method.autoencoder is not None
    local, through = (y.flatten(2).double().detach().numpy() for y in method.frn(U))
    U_hat = method.autoencoder(X).flatten(2).double().detach().numpy()
    Z = U.flatten(2).double().numpy()
    expected = {
        "L_pl": loop_distance(local, Z, 0.3).mean(),
        "L_pg": loop_distance(loop_attend(U_hat, Z), loop_attend(Z, Z), 0.7).mean(),
        "L_lg": loop_distance(through, U_hat, 0.7).mean(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_eq_6_sends_gradients_into_both_networks() -> None:
    method = build("ulsad")
    assert isinstance(method, ULSAD)
    assert method.autoencoder is not None
    batch = images().batch(range(2))
    method.losses(method.normalise(batch), method.features(batch))["L_lg"].backward()
    for network in (method.frn, method.autoencoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_losses_and_branches_can_be_switched_off() -> None:
    batch = images().batch(range(2))

    def terms(**params: object) -> set[str]:
        method = build("ulsad", **params)
        assert isinstance(method, ULSAD)
        return set(method.losses(method.normalise(batch), method.features(batch)))

    assert terms() == {"L_pl", "L_pg", "L_lg"}
    assert terms(loss_pl=False) == {"L_pg", "L_lg"}
    assert terms(loss_pg="off") == {"L_pl", "L_lg"}
    assert terms(loss_lg=False) == {"L_pl", "L_pg"}
    assert terms(local_only=True) == {"L_pl"}
    with pytest.raises(ValueError, match="nothing would be trained"):
        ULSADConfig(loss_pl=False, loss_lg=False, loss_pg="off")
    with pytest.raises(ValueError, match="must be below beta"):
        ULSADConfig(alpha=0.99, beta=0.9)


@pytest.mark.parametrize(("signed", "negative"), [(False, False), (True, True)])
def test_frns_output_has_the_signs_of_the_features(signed: bool, negative: bool) -> None:
    class Signed(TinyBackbone):
        def __call__(self, x: Tensor) -> list[Tensor]:
            return [F.conv2d(x, k, stride=s) for k, s in zip(self.kernels, self.reductions, strict=True)]

    kind = Signed if signed else TinyBackbone
    own = replace(setup(), load_features=lambda _, strides: kind(strides))
    U = torch.randn(2, 14, 8, 8)
    for output, expected in (("auto", negative), ("relu", False), ("linear", True)):
        method = ULSAD(ULSADConfig(output=output), own)
        assert any(bool((part < 0).any()) for part in method.frn(U)) is expected


def test_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        frn, autoencoder = ulsad.FeatureReconstructionNetwork(384), GlobalAutoencoder(384, 256)
        local, through = frn(torch.zeros(1, 384, 32, 32))
        out = autoencoder.eval()(torch.zeros(1, 3, 256, 256))
    assert local.shape == through.shape == out.shape == (1, 384, 32, 32)
    assert sum(p.numel() for p in frn.parameters()) / 1e6 == pytest.approx(65.5, abs=0.05)
    assert sum(p.numel() for p in autoencoder.parameters()) / 1e6 == pytest.approx(1.0, abs=0.05)
    assert autoencoder.encoder(torch.zeros(1, 3, 256, 256, device="meta")).shape[2:] == (1, 1)


def test_an_image_costs_what_was_counted_for_the_authors_code() -> None:
    """50.9 GFLOP per 256² image: Wide-ResNet50-2 24.0, FRN 25.4, global autoencoder 1.5."""
    device = torch.device("meta")
    with device:
        backbone = timm.create_model("wide_resnet50_2", features_only=True, out_indices=(2, 3)).eval()
        frn, autoencoder = ulsad.FeatureReconstructionNetwork(384).eval(), GlobalAutoencoder(384, 256).eval()
        X, U = torch.zeros(1, 3, 256, 256), torch.zeros(1, 384, 32, 32)
    spent = []
    for network, given in ((backbone, X), (frn, U), (autoencoder, X)):
        with FlopCounterMode(display=False) as counter:
            network(given)
        spent.append(counter.get_total_flops() / 1e9)
    assert spent == pytest.approx([24.0, 25.4, 1.5], abs=0.05)
    assert sum(spent) == pytest.approx(50.9, abs=0.05)


def test_channels_are_pooled_to_means_of_neighbours() -> None:
    method = build("ulsad", channels=7)
    assert isinstance(method, ULSAD)
    batch = images().batch([0])
    fine, coarse = method.backbone(method.normalise(batch))
    joined = torch.cat([fine, branches.upsample(coarse, 8)], dim=1)
    expected = joined.reshape(1, 7, 2, 8, 8).mean(dim=2)
    torch.testing.assert_close(method.features(batch), expected)


def test_scoring_is_quantiles_then_blur_then_mean() -> None:
    method = build("ulsad", alpha=0.5, beta=0.9)
    assert isinstance(method, ULSAD)
    fit(method)
    validation = images(4, seed=1)

    def raw_maps(of: Tensor) -> list[Tensor]:
        return [branches.upsample(m[:, None], 64)[:, 0] for m in method.raw_maps(of)]

    maps = raw_maps(validation.batch(range(4)))
    batch = images(3, seed=2).batch(range(3))
    combined = torch.zeros(3, 64, 64)
    for normal, raw in zip(maps, raw_maps(batch), strict=True):
        # Of blurred maps, although the one that is normalised is not blurred yet.
        low, high = np.quantile(blur(normal, gaussian_kernel(1)).numpy(), [0.5, 0.9])
        combined += blur((0.1 * (raw - low) / (high - low)).float(), gaussian_kernel(1)) / 2
    found = method.predict(batch)
    torch.testing.assert_close(found.map, combined, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.score, found.map.amax(dim=(1, 2)))
    torch.testing.assert_close((found.parts["local"] + found.parts["global"]) / 2, found.map)


def test_quantiles_are_known_at_the_last_epoch_and_not_before() -> None:
    method = build("ulsad", epochs=3)
    assert isinstance(method, ULSAD)
    known: list[bool] = []
    data = TrainingData(images(), images(4, seed=1), 0)
    method.fit(data, lambda _: known.append(method.q is not None))
    assert known == [False, False, True]


@pytest.mark.parametrize(
    ("count", "drop_last", "batches"), [(9, False, [4, 4]), (11, False, [4, 4, 3]), (11, True, [4, 4])]
)
def test_a_lone_last_image_and_incomplete_batches_are_left_out(
    count: int, drop_last: bool, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build("ulsad", epochs=2, batch_size=4)
    assert isinstance(method, ULSAD)
    seen: list[int] = []
    own = ULSAD.losses

    def losses(self: ULSAD, X: Tensor, U: Tensor) -> dict[str, Tensor]:
        seen.append(len(X))
        return own(self, X, U)

    monkeypatch.setattr(ULSAD, "losses", losses)
    data = TrainingData(images(count), images(4, seed=1), 0, drop_last=drop_last)
    method.fit(data, lambda _: None)
    assert seen == batches * 2
    # With incomplete batches dropped, μ comes from as many random images as an epoch has.
    whole = method.features(images(count).batch(range(count))).mean(dim=(0, 2, 3))
    assert torch.allclose(method.mean, whole, atol=1e-6) is not drop_last


def test_one_image_is_too_few_for_the_bottlenecks_norm() -> None:
    with pytest.raises(ValidationError, match="batch_size must be at least 2"):
        ULSADConfig(batch_size=1)
    assert ULSADConfig(batch_size=1, local_only=True).batch_size == 1
    with pytest.raises(ValueError, match="there are 1 training images"):
        build("ulsad").fit(TrainingData(images(1), images(4, seed=1), 0), lambda _: None)


def test_ulsad_overfits_eight_images() -> None:
    losses = [sum(e.losses.values()) for e in fit(build("ulsad", epochs=60, lr=2e-3))]
    assert losses[-1] < 0.6 * losses[0]


# DFR


@pytest.mark.parametrize("source", [4, 7, 16, 18, 32, 64, 66])
def test_matrices_equal_resizing_and_averaging(source: int) -> None:
    y = torch.randn(2, 3, source, source, dtype=torch.float64)
    big = F.interpolate(y, size=(64, 64), mode="bilinear", align_corners=True)
    expected = F.avg_pool2d(big, 4, 4)
    R = resize_and_average(source, 64).double()
    torch.testing.assert_close(R @ y @ R.T, expected, atol=1e-5, rtol=1e-5)


def test_a_vggs_maps_are_padded_by_reflection_where_a_convolution_follows() -> None:
    torch.manual_seed(0)

    def network(mode: str) -> nn.Sequential:
        sizes = [3, 4, 4, 5, 6, 6, 6, 7, 8]
        layers: list[nn.Module] = []
        for stage in range(4):
            for i in (2 * stage, 2 * stage + 1):
                convolution = nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, padding_mode=mode)
                layers += [convolution, nn.BatchNorm2d(sizes[i + 1]), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers).eval()

    plain, reflected = network("zeros"), network("reflect")
    reflected.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 16, 16)
    found = list(dfr.vgg_maps(list(plain.children()), x))
    assert [y.shape[-1] for y in found] == [18, 16, 10, 8, 6, 4, 4, 2]
    expected = []
    for layer in reflected:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            expected.append(x)
    for i, (y, z) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(y, F.pad(z, (1, 1, 1, 1), mode="reflect") if i % 2 == 0 else z)
    assert DFR.needs(DFRConfig()).image_size_least == 16
    with pytest.raises(RuntimeError):
        list(dfr.vgg_maps(list(plain.children()), torch.randn(2, 3, 12, 12)))


def test_code_width_is_the_share_of_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([10.0, 3.0, 1.0, 0.1])
    y = torch.randn(5000, 4, generator=generator) * scale + 7
    assert [dfr.code_width(y, v) for v in (0.5, 0.95, 0.999)] == [1, 2, 3]


def test_maps_equal_the_plain_way_layer_by_layer_and_in_parts() -> None:
    made = build("dfr")
    fit(made)
    batch = images(6, seed=3).batch(range(6))
    y = made.features(batch)
    error = (made.autoencoder(y) - y).square().mean(dim=1, keepdim=True)
    plain = F.interpolate(error, size=(64, 64), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(made.predict(batch).map, plain.detach(), rtol=1e-4, atol=1e-6)


# Both


@pytest.mark.parametrize("name", ["ulsad", "dfr"])
@pytest.mark.filterwarnings("ignore")
def test_methods_keep_the_contract(name: str) -> None:
    first, second = build(name), build(name)
    epochs = fit(first)
    fit(second)
    assert [e.number for e in epochs] == list(range(1, epochs[-1].of + 1))
    batch = images(5, seed=3).batch(range(5))
    found = first.predict(batch)
    assert found.score.shape == (5,)
    assert found.map.shape == (5, 64, 64)
    assert torch.equal(second.predict(batch).map, found.map), "same seed, same bits"
    alone = torch.cat([first.predict(batch[i : i + 1]).score for i in range(5)])
    torch.testing.assert_close(alone, found.score, rtol=1e-4, atol=1e-5)
    third = build(name)
    third.load_state_dict(first.state_dict())
    assert torch.equal(third.predict(batch).map, found.map)


@pytest.mark.parametrize("name", ["ulsad", "dfr"])
def test_features_computed_anew_train_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fit(build(name))

    monkeypatch.setattr("methods.features.find_place", lambda *_: "nowhere, computed for every batch")
    method = build(name)
    anew = fit(method)
    assert method.setup.choices["features"].startswith("nowhere")
    assert list(anew[-1].losses.values()) == pytest.approx(list(kept[-1].losses.values()), rel=1e-3)


def test_setup_is_frozen() -> None:
    with pytest.raises(AttributeError):
        setup().seed = 1  # type: ignore[misc]
    assert replace(setup(), seed=1).seed == 1
