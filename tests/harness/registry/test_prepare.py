"""Assets, weights and `bench prepare`: what is there, what is fetched, and that a run never downloads."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from harness.cli.main import main
from harness.common.errors import MissingError, UserError
from harness.method import PHOTOGRAPHS, Asset
from harness.registry import weights
from harness.registry.assets import fetch_asset, find_asset
from harness.registry.weights import fetch_weights, find_weights, load_features, load_network
from tests.harness import places

METHOD = """
from harness import Asset, Citation, Epoch, Hyperparameters, Method, Needs, Prediction


class Mine(Method):
    version = 1
    citation = Citation(title="Mine", authors="Person, A.", year=2026, licence="MIT")

    @classmethod
    def needs(cls, config):
        return Needs(assets=(Asset("pictures", "two pictures", "CC0", {url!r}, {sha256!r}),))

    def fit(self, data, on_epoch):
        self.there = sorted(p.name for p in self.setup.asset("pictures").iterdir())
        assert "1.txt" in self.there, self.there
        on_epoch(Epoch(1, 1))

    def predict(self, images):
        maps = images.float().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {{}}

    def load_state_dict(self, state):
        pass
"""


CARD = places.CARD + places.MASKS


def packed(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.txt", text)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("BENCH_ASSETS", "BENCH_WEIGHTS", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def pictures(server: Any) -> Asset:
    content = packed(**{"1": "one", "2": "two"})
    server.files["pictures.zip"] = content
    url = f"{server.url}/pictures.zip"
    return Asset("pictures", "two pictures", "CC0", url, hashlib.sha256(content).hexdigest())


def left(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Assets


def test_an_asset_is_known_by_what_it_holds_whichever_way_it_came(
    cache: Path, pictures: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingError) as caught:
        find_asset(pictures, cache)
    for part in (pictures.url, str(cache / "assets" / "pictures"), "bench prepare", "BENCH_ASSETS"):
        assert part in str(caught.value)
    fetched = fetch_asset(pictures, cache)
    assert fetched.folder == cache / "assets" / "pictures"
    assert left(cache / "assets") == ["pictures/.asset.json", "pictures/1.txt", "pictures/2.txt"]
    assert find_asset(pictures, cache) == fetched

    place = cache.parent / "mine" / "pictures"
    place.mkdir(parents=True)
    (place / "1.txt").write_text("one")
    (place / "2.txt").write_text("two")
    (place / ".DS_Store").write_text("litter")
    monkeypatch.setenv("BENCH_ASSETS", str(cache.parent / "mine"))
    assert find_asset(pictures, cache).folder == place
    assert find_asset(pictures, cache).sha256 == fetched.sha256
    (place / "2.txt").write_text("three")
    assert find_asset(pictures, cache).sha256 != fetched.sha256


def test_an_asset_of_an_earlier_version_is_fetched_anew(cache: Path, pictures: Asset, server: Any) -> None:
    first = fetch_asset(pictures, cache)
    content = packed(**{"1": "other"})
    server.files["pictures.zip"] = content
    newer = Asset("pictures", "", "CC0", pictures.url, hashlib.sha256(content).hexdigest())
    with pytest.raises(MissingError):
        find_asset(newer, cache)
    assert fetch_asset(newer, cache).sha256 != first.sha256
    assert left(cache / "assets") == ["pictures/.asset.json", "pictures/1.txt"]


def test_a_file_that_is_no_archive_and_an_empty_folder(cache: Path, server: Any) -> None:
    server.files["teacher.pth"] = b"PK weights"  # torch's files are zip files too
    teacher = Asset("teacher", "weights", "MIT", f"{server.url}/teacher.pth")
    assert left(fetch_asset(teacher, cache).folder) == [".asset.json", "teacher.pth"]
    (cache / "assets" / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        find_asset(Asset("empty", "", ""), cache)
    with pytest.raises(MissingError, match="put what it holds into"):
        find_asset(Asset("own", "", ""), cache)


@pytest.mark.parametrize("fault", ["404", "429", "wrong", "long", "cut"])
def test_an_asset_that_cannot_be_had_leaves_nothing_half_written(
    cache: Path, pictures: Asset, server: Any, fault: str
) -> None:
    server.fault = fault
    with pytest.raises(UserError, match="by hand as"):
        fetch_asset(pictures, cache)
    assert not (cache / "assets" / "pictures").exists()
    assert left(cache / "assets") == (["pictures-pictures.zip.part"] if fault == "cut" else [])


def test_several_fetch_at_once(cache: Path, pictures: Asset) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: fetch_asset(pictures, cache), range(12)))
    assert found == {find_asset(pictures, cache)}
    assert left(cache / "assets") == ["pictures/.asset.json", "pictures/1.txt", "pictures/2.txt"]


def test_the_photographs_are_made_the_same_again(cache: Path) -> None:
    pytest.importorskip("skimage")
    first = find_asset(PHOTOGRAPHS, cache)
    images = sorted(first.folder.glob("*.png"))
    assert len(images) >= 8
    assert all(Image.open(path).mode == "RGB" for path in images)
    images[0].unlink()
    again = find_asset(PHOTOGRAPHS, cache)
    assert images[0].is_file()
    assert again == first


# Weights

TINY = "tf_efficientnet_lite0"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(timm.create_model(TINY).state_dict())


def test_weights_of_ones_own_by_address_and_by_folder(
    cache: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.parent / "mine.pth"
    torch.save(state, path)
    monkeypatch.setenv("HOME", str(cache.parent))
    found = find_weights(f"{TINY}@file:~/mine.pth", cache)
    assert (found.backbone, found.path) == (TINY, path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    network, _, _ = load_network(found, torch.device("cpu"))
    assert torch.equal(network.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    features = load_features(found, (8, 16), torch.device("cpu"))
    assert torch.equal(features.network.state_dict()["conv_stem.weight"], state["conv_stem.weight"])

    for folder, variable in ((cache / "weights", ""), (cache.parent / "w", "BENCH_WEIGHTS")):
        folder.mkdir(parents=True)
        save_file(state, folder / f"{TINY}.safetensors")
        if variable:
            monkeypatch.setenv(variable, str(folder))
        assert find_weights(TINY, cache).path == folder / f"{TINY}.safetensors"


@pytest.mark.parametrize("fault", ["names", "shape", "text", "list", "empty", "absent"])
def test_a_file_that_does_not_fit_is_one_sentence(
    cache: Path, state: dict[str, torch.Tensor], fault: str
) -> None:
    path = cache.parent / "mine.pth"
    torch.save(state, path)
    if fault == "names":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    elif fault == "shape":
        torch.save(state | {"conv_stem.weight": torch.zeros(3)}, path)
    elif fault == "text":
        path.write_text("no weights")
    elif fault == "list":
        torch.save([1, 2], path)
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UserError) as caught:
        find_weights(f"{TINY}@file:{path}", cache)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_mean_nothing(cache: Path) -> None:
    with pytest.raises(UserError, match="timm has no backbone 'resnet1'"):
        find_weights("resnet1@file:x.pth", cache)
    with pytest.raises(UserError, match="random weights are asked for"):
        find_weights("resnet18@file:x.pth", cache, pretrained=False)


def test_looking_for_weights_never_reaches_for_the_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    with pytest.raises(MissingError) as caught:
        find_weights("resnetv2_50x1_bit", cache)
    for part in ("bench prepare", "https://huggingface.co/timm/", str(cache / "weights"), "by hand"):
        assert part in str(caught.value)


@pytest.fixture
def hub(server: Any, cache: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that has the weights of one network."""
    save_file(state, cache.parent / "hub.safetensors")
    content = (cache.parent / "hub.safetensors").read_bytes()
    path = f"timm/{TINY}.in1k/resolve/main/model.safetensors"
    server.files[path], server.etags[path] = content, hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(weights, "_packaged", lambda _: None)
    return server


def test_weights_come_from_the_hub(hub: Any, cache: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(MissingError):
        find_weights(TINY, cache)
    hub.fault = "cut"
    with pytest.raises(UserError, match="goes on from there"):
        fetch_weights(TINY, cache)
    assert left(cache / "weights") == [f"{TINY}.safetensors.part"]
    hub.fault = ""
    found = fetch_weights(TINY, cache)
    assert found.path == cache / "weights" / f"{TINY}.safetensors"
    assert hub.ranges[-1].startswith("bytes=")
    assert find_weights(TINY, cache) == found


@pytest.mark.parametrize("fault", ["404", "403", "429:9", "wrong", "long"])
def test_weights_that_cannot_be_had(hub: Any, cache: Path, fault: str) -> None:
    hub.fault = fault
    with pytest.raises(UserError) as caught:
        fetch_weights(TINY, cache)
    for part in (f"{hub.url}/timm/{TINY}", str(cache / "weights" / f"{TINY}.safetensors")):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(cache / "weights") == []


def test_weights_without_a_published_checksum_must_still_fit(hub: Any, cache: Path) -> None:
    hub.etags.clear()
    hub.fault = "wrong"
    with pytest.raises(UserError, match="cannot be read"):
        fetch_weights(TINY, cache)
    assert left(cache / "weights") == []


# bench prepare


@pytest.fixture
def bench(cache: Path, pictures: Asset) -> Callable[..., Result]:
    text = METHOD.format(url=pictures.url, sha256=pictures.sha256)
    (cache.parent / "mine.py").write_text(text)
    (cache.parent / "own.toml").write_text(CARD)
    for folder, count in (("train/good", 3), ("test/good", 1), ("test/bad", 1), ("ground_truth/bad", 1)):
        place = cache.parent / "own" / "a" / folder
        place.mkdir(parents=True)
        for number in range(count):
            Image.new("L", (40, 40), 50 + number).save(place / f"{number}.png")
    words = ["--methods", "mine.py:Mine", "--datasets", "own.toml", "--data-root", str(cache.parent)]
    return lambda command, *more: CliRunner().invoke(main, [command, *words, *more])


def test_prepare_fetches_and_proves_and_a_run_only_looks(
    bench: Callable[..., Result], cache: Path, server: Any, pictures: Asset
) -> None:
    stopped = bench("plan")
    assert stopped.exit_code == 2
    assert "Asset 'pictures'" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    proof = bench("prepare", "--offline")
    assert proof.exit_code == 1
    assert "missing  asset pictures" in proof.output
    assert not server.ranges, "neither a plan nor a proof downloads"

    server.fault = "429:60"
    refused = bench("prepare")
    assert refused.exit_code == 1
    assert "asks to wait 60 seconds" in refused.output
    server.fault = ""
    assert "fetched  asset pictures" in bench("prepare").output
    server.fault = "404"
    proof = bench("prepare", "--offline")
    assert (proof.exit_code, "Everything is there." in proof.output) == (0, True), proof.output
    assert "1 runs, 0 done, 1 to do" in bench("plan").output


@pytest.mark.slow
def test_a_record_knows_its_assets(bench: Callable[..., Result], cache: Path, pictures: Asset) -> None:
    fetch_asset(pictures, cache)
    done = bench("run", "--image-size", "32", "--device", "cpu", "--no-report")
    assert done.exit_code == 0, done.output
    record = json.loads(next((cache.parent / "results").rglob("*.json")).read_text())
    found = find_asset(pictures, cache).sha256
    assert record["identity"]["weights"] == {"asset:pictures": found}
    assert record["fingerprint"]["weights"] == {"asset:pictures": found}

    key = record["key"]
    (cache / "assets" / "pictures" / "1.txt").write_text("changed")
    done = bench("run", "--image-size", "32", "--device", "cpu", "--no-report")
    assert len({p.stem for p in (cache.parent / "results").rglob("*.json")} - {key}) == 1


def test_prepare_says_what_to_do_by_hand(cache: Path) -> None:
    words = ["--methods", "dfr", "--backbone", TINY, "--datasets", "mpdd,visa"]
    done = CliRunner().invoke(main, ["prepare", "--offline", *words, "--data-root", str(cache.parent)])
    assert done.exit_code == 1
    assert "bench data fetch visa --accept-licence" in done.output
    assert f"unpack the category folders into {cache.parent}/mpdd" in done.output
    assert CliRunner().invoke(main, ["prepare", "--methods", "dfrr"]).exit_code == 2


def test_the_hubs_local_cache_is_used(
    cache: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.parent / "hub"))
    repository = cache.parent / "hub" / "models--timm--resnet18.a1_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    with pytest.raises(MissingError):
        find_weights("resnet18", cache)
    save_file(state, repository / "snapshots" / "abc" / "model.safetensors")
    found = find_weights("resnet18", cache)
    assert found.path == repository / "snapshots" / "abc" / "model.safetensors"


def test_downloads_survive_the_clearing_of_the_cache(cache: Path, pictures: Asset) -> None:
    fetch_asset(pictures, cache)
    assert CliRunner().invoke(main, ["cache", "clear"]).exit_code == 0
    find_asset(pictures, cache)
