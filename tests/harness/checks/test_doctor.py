"""`bench doctor`: everything missing is found and comes with what to do, and nothing makes it fail itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.checks import doctor
from harness.cli.main import main
from tests.harness.places import command

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("BENCH_DATA", "BENCH_WEIGHTS", "BENCH_ASSETS"):
        monkeypatch.delenv(name, raising=False)


def asked(*words: str, code: int = 0) -> dict[str, Any]:
    """What it finds, by name; the first of a name."""
    done = CliRunner().invoke(main, ["doctor", "--json", *words])
    assert done.exit_code == code, done.output
    answer = json.loads(done.output)
    assert answer["demo_runs"] is (code == 0)
    for finding in answer["findings"]:
        assert bool(finding["remedy"]) is (finding["state"] != "ok"), finding
    return {finding["name"]: finding for finding in reversed(answer["findings"])}


def test_a_machine_that_runs_the_demo(tmp_path: Path) -> None:
    (tmp_path / "data/mpdd/metal_plate").mkdir(parents=True)
    (tmp_path / "data/visa").mkdir()
    found = asked("--data-root", "data")
    assert found["bench run"]["state"] == "ok"
    assert found["torch"]["text"]
    assert found["mpdd"]["text"].startswith("1 of 6 categories (metal_plate)")
    assert "`bench data check mpdd --data-root data`" in found["mpdd"]["remedy"]
    assert "`bench data fetch btad --data-root data`" in found["btad"]["remedy"]
    assert "bench prepare --methods dfr" in found["weights vgg19"]["remedy"]
    assert "efficientad" in found["asset imagenette"]["text"]
    assert not (tmp_path / "cache" / "demo-1").exists()


def test_on_the_terminal() -> None:
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert "  missing data root: none is given" in done.output
    assert "          → Give --data-root, or set BENCH_DATA" in done.output
    assert done.output.splitlines()[-1].startswith("The demo can run; ")


@pytest.mark.parametrize("broken", ["timm", "torch", "pydantic"])
def test_a_broken_package_is_a_finding(tmp_path: Path, broken: str) -> None:
    (tmp_path / "bad" / broken).mkdir(parents=True)
    (tmp_path / "bad" / broken / "__init__.py").write_text("raise OSError('lib.so: wrong\\nELF class')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path / 'bad'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command("doctor"), capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert f"problem {broken}: cannot be looked at (lib.so: wrong ELF class)" in done.stdout
    assert "programs:" in done.stdout  # it went on to the end


def test_without_the_demos_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.registry.weights._PACKAGES", {})
    name = (
        "weights tf_efficientnet_lite0, for ulsad, patchcore, padim, cflow, fastflow, reverse_distillation, "
    )
    found = asked(code=1)
    problem = next(f for f in found.values() if f["state"] == "problem")
    assert problem["name"].startswith(name.rstrip(", ")[:40])
    assert "bench prepare" in problem["remedy"]


def test_extras_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    found = asked()
    for extra in doctor.EXTRAS:
        assert found[extra]["remedy"] == f'Run pip install "ulsad-bench[{extra}]".'


def test_it_knows_the_extras_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(project) - {"all", "dev", "docs"}
    for extra, (distributions, _) in doctor.EXTRAS.items():
        assert all(any(wanted.startswith(name) for wanted in project[extra]) for name in distributions), extra


@pytest.mark.parametrize(("free", "code", "state"), [(10**8, 1, "problem"), (10**9, 0, "missing")])
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, free: int, code: int, state: str) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(free))
    assert asked(code=code)["results"]["state"] == state


def test_a_results_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = asked("--results", "file/results", code=1)
    assert found["results"]["text"] == "file/results cannot be written"


def test_a_variable_that_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", "/nowhere")
    assert asked()["BENCH_WEIGHTS"]["text"] == "names /nowhere, which is no folder"


def test_programs_that_only_tests_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/opt/chrome" if name == "google-chrome" else None)
    found = {finding.name: finding for finding in doctor._programs()}
    assert found["chromium"].text == "/opt/chrome"
    assert found["pdflatex"].remedy == "If wanted, install a TeX distribution."


@pytest.mark.parametrize(
    ("cuda", "driver", "words"),
    [
        (None, True, "built without CUDA"),
        ("13.0", True, "torch cannot use it"),
        ("13.0", False, "there is none"),
    ],
)
def test_why_there_is_no_gpu(cuda: str | None, driver: bool, words: str) -> None:
    found = doctor._no_gpu(cuda, driver)
    assert words in found.text
    assert found.state == "missing"
    assert found.remedy


def test_help_does_not_import_it() -> None:
    code = "import sys; from harness.cli.main import main; assert 'harness.checks.doctor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
