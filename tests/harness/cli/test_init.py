"""`bench init`: what it writes works as it stands, and it hides and overwrites nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.registry.methods import load_method
from tests.harness.places import command, environment, make_place, records


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert done.output.startswith("Error: ")
    return done.output


def ran(place: Path, *words: str) -> str:
    """What `bench` said in a process of its own, as a person starts it."""
    done = subprocess.run(command(*words), cwd=place, env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_method_keeps_the_contract(place: Path) -> None:
    said = bench("init", "method", "far_off")
    assert "bench test-method far_off.py:FarOff" in said
    assert "The method keeps its contract." in ran(place, "test-method", "far_off.py:FarOff")


@pytest.mark.slow
def test_the_method_runs_on_the_demo(place: Path) -> None:
    bench("init", "method", "Mine")
    words = ("--suite", "demo", "--methods", "mine.py:Mine", "--categories", "texture", "--image-size", "64")
    ran(place, "run", *words, "--device", "cpu", "--no-report", "--quiet")
    (record,) = records(place).values()
    assert record.outcome == "ok"
    assert record.spec.method == "mine.py:Mine"


def test_the_card_of_a_tiny_dataset(place: Path) -> None:
    make_place(place)
    (place / "data/own").rename(place / "data/widgets")
    said = bench("init", "dataset", "widgets")
    assert "bench data check widgets.toml" in said
    assert "widgets.toml: 0 errors, 0 warnings." in ran(place, "data", "check", "widgets.toml")
    words = ("--methods", "mine.py:Mine", "--datasets", "widgets.toml", "--image-size", "32")
    ran(place, "run", *words, "--device", "cpu", "--no-report", "--quiet")
    found = records(place).values()
    assert [record.outcome for record in found] == ["ok", "ok"]
    assert {record.spec.category for record in found} == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "file", "class_"),
    [("PatchNet2", "patch_net2", "PatchNet2"), ("my_net", "my_net", "MyNet"), ("ULSAD", "ulsad", "ULSAD")],
)
def test_names_of_methods(place: Path, name: str, file: str, class_: str) -> None:
    bench("init", "method", name)
    assert load_method(f"{file}.py:{class_}").citation.title == class_


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("method", "my-method", "is no name for a method"),
        ("method", "../up", "is no name for a method"),
        ("method", "torch", "would hide a Python module"),
        ("method", "epoch", "which the file uses itself"),
        ("method", "none", "which the file uses itself"),
        ("method", "__", "is no name for a method"),
        ("dataset", "a/b", "is no name for a dataset"),
        ("dataset", 'a"', "is no name for a dataset"),
        ("dataset", "MVTec", "There is a dataset 'mvtec' already"),
    ],
)
def test_names_that_would_do_harm(place: Path, kind: str, name: str, words: str) -> None:
    assert words in refused("init", kind, name)
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "file"), [("method", "mine", "mine.py"), ("dataset", "d", "d.toml")]
)
def test_nothing_is_overwritten(place: Path, kind: str, name: str, file: str) -> None:
    (place / file).write_text("dear")
    assert f"{file} is there already" in refused("init", kind, name)
    assert (place / file).read_text() == "dear"
