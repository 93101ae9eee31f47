"""The whole line on small images: runs, records, failures, kill -9, bad input."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.execution.executors.protocol import AGAIN
from tests.harness.places import RUN, command, environment, fill, make_place, records, undisturbed


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a dataset of one's own, its card, and a method of one's own."""
    return make_place(tmp_path)


Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(place: Path) -> Bench:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=place, env=environment(place), capture_output=True, text=True, timeout=240
        )

    return call


def scores(place: Path) -> dict[str, Any]:
    return {path: (r.outcome, r.metrics, r.metrics_last, r.epochs) for path, r in records(place).items()}


def test_a_private_method_gets_into_the_leaderboard_and_runs_are_reused(place: Path, bench: Bench) -> None:
    done = bench(*RUN, "--seeds", "0,1")
    assert done.returncode == 0, done.stderr
    first = scores(place)
    assert len(first) == 4
    typed = " ".join(["bench", *RUN, "--seeds", "0,1"])
    assert {record.command for record in records(place).values()} == {typed}
    rows = list(csv.DictReader((place / "report" / "leaderboard.csv").open()))
    mean = [r for r in rows if r["category"] == "mean" and r["metric"] == "image_auroc"]
    assert [(r["method"], r["mean"], r["complete"]) for r in mean] == [("mine.py:Mine", "100.0", "4 of 4")]
    assert "mine.py:Mine" in (place / "report" / "index.html").read_text()

    before = {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*.json")}
    again = bench(*RUN, "--seeds", "0,1", "--overwrite", "never")
    assert "0 to do" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*.json")} == before

    assert bench(*RUN, "--seeds", "0,1", "--overwrite", "always").returncode == 0
    assert scores(place) == first, "the same run twice, to the bit"


def test_paper_keeps_both_epochs_and_strict_touches_the_test_set_once(place: Path, bench: Bench) -> None:
    fill(place)
    assert bench(*RUN, "--protocol", "strict,paper", "--categories", "a").returncode == 0
    by_protocol = {record.spec.protocol: record for record in records(place).values()}
    strict, paper = by_protocol["strict"], by_protocol["paper"]
    assert strict.metrics_last is None
    assert all(epoch.test_image_auroc is None for epoch in strict.epochs)
    assert (strict.counts["train"], strict.counts["validation"]) == (9, 1)
    assert (strict.counts["test"], "unscored" in strict.counts) == (34, False)
    # In the order of paths the last two are normal.
    assert paper.counts == {
        "train": 10,
        "validation": 16,
        "test": 32,
        "normal": 16,
        "anomalous": 16,
        "unscored": 2,
    }
    assert paper.metrics_last is not None
    assert paper.selected_epoch == 1, "the first of equals"
    assert strict.fingerprint.short() != paper.fingerprint.short()
    page = (place / "report" / "index.html").read_text()
    assert "selects on test data" in page
    assert page.count('<section class="ranking" id="own-') == 2


# What a method does wrong: how its run ends, and what is said.
FAULTS = {
    "raise": ("failed", "planted"),
    "die": ("failed", "SIGKILL"),
    "memory": ("out_of_memory", "planted"),
    "nan": ("failed", "image 0"),
    "shape": ("failed", "returned a map of shape"),
}


def test_runs_that_fail_end_alone_and_are_recorded(place: Path, bench: Bench) -> None:
    """One after the other in one command, so that each has the worker, or its place, of the one before."""
    names = ",".join([*(f"mine.py:Mine[fault={fault}]" for fault in FAULTS), "mine.py:Mine"])
    done = bench(*RUN[:2], names, *RUN[3:], "--categories", "a")
    assert done.returncode == 1
    assert f"{len(FAULTS)} of {len(FAULTS) + 1} runs failed" in done.stderr
    found = {record.spec.method: record for record in records(place).values()}
    for fault, (outcome, message) in FAULTS.items():
        failed = found[f"mine.py:Mine[fault={fault}]"]
        assert failed.outcome == outcome, fault
        assert failed.failure is not None
        assert message in failed.failure.message
        assert failed.remarks == ([AGAIN] if outcome == "out_of_memory" else [])
    assert found["mine.py:Mine"].outcome == "ok"


def test_a_run_that_was_out_of_memory_is_tried_once_more(place: Path, bench: Bench) -> None:
    words = [*RUN[:2], "mine.py:Mine[fault=memory once]", *RUN[3:], "--categories", "a", "--no-report"]
    assert bench(*words, "--pack", "2").returncode == 0
    ((path, record),) = records(place).items()
    assert record.outcome == "ok"
    assert record.remarks == [AGAIN]
    first, second = (line.split()[0] for line in (place / "diary").read_text().splitlines())
    assert first != second, "in a new process"
    assert bench(*words, "--results", "whole").returncode == 0
    whole = undisturbed(place / path.replace("results", "whole", 1))
    assert undisturbed(place / path) == whole | {"remarks": [AGAIN]}


def test_a_run_that_takes_too_long_is_ended(place: Path, bench: Bench) -> None:
    names = "mine.py:Mine[wait=60]"
    done = bench(*RUN[:2], names, *RUN[3:], "--categories", "a", "--timeout", "8")
    assert done.returncode == 1
    assert [record.outcome for record in records(place).values()] == ["timeout"]


def kill_and_compare(place: Path, bench: Bench, words: list[str], waits: Iterable[float]) -> int:
    """Runs undisturbed, then killed at these moments and started again; returns how many were too late."""
    assert bench(*words, "--results", "whole").returncode == 0
    whole, results = place / "whole", place / "results"
    late = 0
    for wait in waits:
        driver = subprocess.Popen(
            command(*words), cwd=place, env=environment(place), stdout=subprocess.DEVNULL
        )
        time.sleep(wait)
        late += driver.poll() is not None
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        for path in results.rglob("*.json"):
            assert undisturbed(path) == undisturbed(whole / path.relative_to(results))
    assert bench(*words).returncode == 0
    assert {p.relative_to(results) for p in results.rglob("*.json")} == {
        p.relative_to(whole) for p in whole.rglob("*.json")
    }
    for path in results.rglob("*.json"):
        assert undisturbed(path) == undisturbed(whole / path.relative_to(results))
    assert not list(results.rglob("*.tmp"))
    return late


@pytest.mark.parametrize("protocol", ["strict", pytest.param("paper", marks=pytest.mark.slow)])
def test_a_killed_training_goes_on_where_it_was(place: Path, bench: Bench, protocol: str) -> None:
    words = [*RUN[:2], "mine.py:Mine[wait=0.4,epochs=6]", *RUN[3:], "--categories", "a", "--no-report"]
    words += ["--protocol", protocol, "--checkpoint-every", "0"]
    fill(place)
    assert bench(*words, "--results", "whole").returncode == 0
    driver = subprocess.Popen(command(*words), cwd=place, env=environment(place), stdout=subprocess.DEVNULL)
    while not (saved := list((place / "results").rglob("*.checkpoint.safetensors"))):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert bench(*words).returncode == 0
    ((name, record),) = records(place).items()
    assert record.resumed and 1 <= record.resumed[0] < 6
    assert [log.number for log in record.epochs] == [1, 2, 3, 4, 5, 6]
    assert undisturbed(place / name) == undisturbed(place / name.replace("results", "whole", 1))
    assert not saved[0].exists()
    assert not list((place / "results").rglob("*.tmp"))


@pytest.mark.slow
def test_killed_anywhere_and_started_again_gives_the_same_records(place: Path, bench: Bench) -> None:
    words = [*RUN[:2], "mine.py:Mine[wait=0.15]", *RUN[3:], "--seeds", "0-2", "--no-report"]
    words += ["--checkpoint-every", "0"]
    kill_and_compare(place, bench, words, (1.5, 5.5, 6.5))


@pytest.mark.slow
def test_killed_at_ten_random_moments(place: Path, bench: Bench) -> None:
    """Long enough that no attempt ends by itself, whatever the machine's speed."""
    words = [*RUN[:2], "mine.py:Mine[wait=0.8]", *RUN[3:], "--seeds", "0-7", "--no-report"]
    moments = np.random.default_rng(int.from_bytes(os.urandom(4))).uniform(0.2, 9, 10)
    late = kill_and_compare(place, bench, words, moments)
    assert late < 5, f"most of the moments {moments} hit no process"


def test_ctrl_c_prints_the_command_that_goes_on(place: Path) -> None:
    words = [*RUN[:2], "mine.py:Mine[wait=30]", *RUN[3:]]
    # A shell that runs the tests in the background has them ignore Ctrl-C, which children inherit.
    driver = subprocess.Popen(
        command(*words),
        cwd=place,
        env=environment(place),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(9)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert "go on with" in said
    assert "'mine.py:Mine[wait=30]'" in said
    assert "Traceback" not in said


BAD = {
    "method": (["--methods", "ulsat"], "Did you mean 'ulsad'"),
    "file": (["--methods", "nope.py:Mine"], "There is no file"),
    "class": (["--methods", "mine.py:Mien"], "Did you mean 'Mine'"),
    "dataset": (["--datasets", "mvtek"], "Did you mean 'mvtec'"),
    "category": (["--categories", "c"], "no dataset of this run has a category 'c'"),
    "protocol": (["--protocol", "strickt"], "Did you mean 'strict'"),
    "suite": (["--suite", "dmeo"], "Did you mean 'demo'"),
    "suite file": (["--suite", "nope.toml"], "There is no suite file"),
    "hyper-parameter": (["--methods", "mine.py:Mine[epoch=2]"], "Did you mean 'epochs'"),
    "value": (["--methods", "mine.py:Mine[epochs=two]"], "hyper-parameter 'epochs' = 'two'"),
    "range": (["--set", "mine.py:Mine.epochs=0"], "greater than or equal to 1"),
    "assignment": (["--set", "epochs"], "METHOD.PARAM=VALUE"),
    "stray set": (["--set", "dfr.epochs=2"], "which is not run"),
    "data folder": (["--data-root", "nowhere"], "was not found below nowhere"),
    "device": (["--device", "gpu"], "There is no device 'gpu'"),
    "missing device": (["--device", "cuda:7"], "is not on this machine"),
    "pack auto": (["--pack", "auto"], "goes by the memory of GPUs"),
    "backbone": (["--backbone", "resnet18"], "no method of this run has a backbone"),
    "keep": (["--keep", "everything"], "maps, weights and parts"),
    "results": (["--results", "/proc/nowhere"], "cannot be written"),
}


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`bench` in this process, for what ends before any worker starts."""
    monkeypatch.chdir(place)
    for name in ("BENCH_CACHE", "BENCH_DATA"):
        monkeypatch.setenv(name, environment(place)[name])
    return lambda *words: CliRunner().invoke(main, words)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(place: Path, inside: Callable[..., Result], case: str) -> None:
    words, sentence = BAD[case]
    done = inside(*RUN, *words)
    assert done.exit_code == 2, done.output
    assert sentence.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "results").exists() or not records(place)


def test_broken_data_stops_before_the_first_run(place: Path, inside: Callable[..., Result]) -> None:
    own = place / "data" / "own"
    image = own / "b" / "train" / "good" / "3.png"
    whole = image.read_bytes()
    for content in (b"", whole[:40]):
        image.write_bytes(content)
        done = inside(*RUN)
        assert done.exit_code == 2
        assert str(image) in done.stderr
        assert not records(place)
    image.write_bytes(whole)
    mask = own / "b" / "ground_truth" / "bad" / "1.png"
    mask.unlink()
    done = inside(*RUN)
    assert done.exit_code == 2
    assert "has no mask" in done.stderr
    for path in (own / "a" / "train" / "good").iterdir():
        path.unlink()
    assert "No training image" in inside(*RUN).stderr


def test_reports_of_nothing_and_of_damaged_records(place: Path, inside: Callable[..., Result]) -> None:
    assert inside("report").exit_code == 2
    (place / "results").mkdir()
    empty = inside("report")
    assert (empty.exit_code, "no records" in empty.output) == (2, True)
    assert inside(*RUN, "--categories", "a", "--no-report").exit_code == 0
    broken = place / "results" / "own" / "a" / "x" / "0123.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"key": 1')
    done = inside("report")
    assert done.exit_code == 0
    assert "Damaged record skipped" in done.output
    assert "0123.json" in (place / "report" / "index.html").read_text()


def test_runs_of_ones_own_have_the_papers_image_size_not_the_demos(inside: Callable[..., Result]) -> None:
    own = ("plan", "--methods", "mine.py:Mine", "--datasets", "own.toml", "--device", "cpu")
    assert "at 256 px on cpu" in inside(*own).output
    assert "at 64 px" in inside(*own, "--image-size", "64").output
    assert "at 128 px" in inside("plan", "--methods", "mine.py:Mine", "--device", "cpu").output


def test_evaluation_at_native_size_is_another_run(place: Path, inside: Callable[..., Result]) -> None:
    words = [*RUN, "--categories", "a"]
    assert inside(*words, "--no-report").exit_code == 0
    assert "1 runs, 0 done, 1 to do" in inside("plan", *words[1:], "--evaluate", "native").output
    assert "1 runs, 1 done, 0 to do" in inside("plan", *words[1:], "--evaluate", "input").output
    assert inside(*words, "--evaluate", "native").exit_code == 0
    found = {r.fingerprint.evaluation_resolution: r for r in records(place).values()}
    assert set(found) == {"32x32", "native"}
    assert inside(*words, "--evaluate", "output").exit_code == 2


def test_plan_says_what_run_would_do(place: Path, inside: Callable[..., Result]) -> None:
    assert "2 runs, 0 done, 2 to do" in inside("plan", *RUN[1:]).output
    assert inside(*RUN, "--categories", "a", "--no-report").exit_code == 0
    said = inside("plan", *RUN[1:]).output
    assert "2 runs, 1 done, 1 to do" in said
    assert "By earlier records" in said


@pytest.mark.slow
def test_ulsad_and_dfr_run_on_real_images(tmp_path: Path) -> None:
    """MPDD's metal_plate under both protocols: counts, finite losses, and the same bits when run again."""
    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        pytest.skip("BENCH_SHARED names no folder with real datasets")
    words = [
        "run",
        "--methods",
        "ulsad,dfr",
        "--datasets",
        "mpdd",
        "--categories",
        "metal_plate",
        "--protocol",
    ]
    words += ["strict,paper", "--backbone", "tf_efficientnet_lite0", "--image-size", "128", "--device", "cpu"]
    words += ["--set", "ulsad.epochs=2", "--set", "dfr.epochs=2"]
    env = os.environ | {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_DATA": str(Path(shared) / "data")}
    subprocess.run(command(*words), cwd=tmp_path, env=env, check=True, timeout=900)
    found = scores(tmp_path)
    counts = {
        (r.spec.protocol, r.counts["train"], r.counts["validation"], r.counts["test"])
        for r in records(tmp_path).values()
    }
    assert counts == {("strict", 49, 5, 97), ("paper", 54, 26, 96)}
    subprocess.run(command(*words, "--overwrite", "always"), cwd=tmp_path, env=env, check=True, timeout=900)
    assert scores(tmp_path) == found


@pytest.mark.slow
def test_two_workers_make_the_records_of_one(place: Path, bench: Bench) -> None:
    words = [*RUN[:-2], "--seeds", "0-2", "--no-report", "--device"]
    words[2] = "mine.py:Mine[wait=0.2],mine.py:Mine[fault=die]"
    assert bench(*words, "cpu", "--results", "whole").returncode == 1
    done = bench(*words, "cpu,cpu")
    assert done.returncode == 1
    assert done.stdout.count("· cpu: started") == 12
    results = place / "results"
    paths = {path.relative_to(results) for path in results.rglob("*.json")}
    assert paths == {path.relative_to(place / "whole") for path in (place / "whole").rglob("*.json")}
    assert len(paths) == 12
    for path in paths:
        assert undisturbed(results / path) == undisturbed(place / "whole" / path)
    assert bench(*words, "cpu,gpu").stderr.startswith("Error: There is no device 'gpu'")
