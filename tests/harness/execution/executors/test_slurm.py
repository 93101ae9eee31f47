"""Runs as jobs, by submitit's executors for one machine: no SLURM, but its files and signals."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness.places import (
    MINE,
    RUN,
    Spawn,
    bench,
    environment,
    files_in,
    inside,
    make_place,
    records,
    spawning,
    undisturbed,
)

WORDS = (*RUN, "--no-report", "--checkpoint-every", "0", "--measure", "0")
with_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None,
    reason='submitit is not installed: pip install "ulsad-bench[slurm]"',
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place whose method writes its diary into the place, and whose jobs are of this machine."""
    place = make_place(tmp_path)
    (place / "mine.py").write_text(MINE.replace('open("diary"', f"open({str(place / 'diary')!r}"))
    (place / "jobs.toml").write_text('cluster = "local"\n')
    return place


@pytest.fixture
def spawn(place: Path) -> Iterator[Spawn]:
    with spawning(place, environment(place) | {"OMP_NUM_THREADS": "1"}) as call:
        yield call


def jobs(*words: str, file: str = "jobs.toml") -> tuple[str, ...]:
    return (*WORDS, "--executor", "slurm", "--slurm-config", file, *words)


def until(happens: Callable[[], object], seconds: float = 240) -> None:
    began = time.monotonic()
    while not happens():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)


def submitted(place: Path) -> list[psutil.Process]:
    """The processes of jobs that go on, below submitit's own."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "submitit.core._submit" in (words := " ".join(process.info["cmdline"] or ()))
        and str(place) in words
    ]


def scores(place: Path) -> dict[str, object]:
    return {path: undisturbed(place / path) for path in records(place)}


def test_without_submitit_one_sentence_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with inside(place):
        said = bench(*jobs())
    assert said.exit_code == 2
    assert said.output.startswith("Error: --executor slurm needs submitit (")
    assert said.output.endswith('): run pip install "ulsad-bench[slurm]".\n')


@with_submitit
def test_where_there_is_no_slurm_it_is_said_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with inside(place):
        said = bench(*WORDS, "--executor", "slurm")
    assert (said.exit_code, "There is no SLURM here" in said.output) == (2, True)


@with_submitit
def test_a_parameter_that_submitit_does_not_know_is_a_sentence(place: Path) -> None:
    (place / "odd.toml").write_text('cluster = "local"\nslurm_partitoin = "gpu"\n')
    with inside(place):
        said = bench(*jobs(file="odd.toml"))
    assert said.exit_code == 2
    assert "Jobs could not be submitted (" in said.output
    assert "slurm_partitoin" in said.output
    assert not records(place)


@with_submitit
def test_jobs_leave_what_local_runs_leave(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with inside(place):
        said = bench(*jobs("--seeds", "0,1", "--categories", "a", "--keep", "maps"))
        assert said.exit_code == 0, said.output
        assert "2 runs, 0 done, 2 to do, at 32 px on local (at most 64 runs at a time)." in said.output
        found, files = scores(place), sorted(p.name for p in files_in(place / "results"))
        assert len(found) == 2
        (place / "results").rename(place / "jobs")
        assert bench(*WORDS, "--seeds", "0,1", "--categories", "a", "--keep", "maps").exit_code == 0
    assert scores(place) == found
    assert sorted(p.name for p in files_in(place / "results")) == files, "nothing of the jobs is left"


@with_submitit
def test_debug_jobs_run_in_this_process(place: Path) -> None:
    (place / "debug.toml").write_text('cluster = "debug"\n')
    with inside(place):
        said = bench(*jobs("--categories", "a", file="debug.toml"))
    assert said.exit_code == 0, said.output
    assert [record.outcome for record in records(place).values()] == ["ok"]


@with_submitit
def test_what_fails_in_a_job_is_recorded_and_the_others_go_on(place: Path) -> None:
    methods = "mine.py:Mine,mine.py:Mine[fault=raise],mine.py:Mine[fault=die]"
    with inside(place):
        said = bench(*jobs("--categories", "a", "--methods", methods))
    assert said.exit_code == 1
    found = {r.spec.params.get("fault", ""): r for r in records(place).values()}
    assert {fault: record.outcome for fault, record in found.items()} == {
        "": "ok",
        "raise": "failed",
        "die": "failed",
    }
    assert found["raise"].failure and "planted" in found["raise"].failure.message
    assert found["die"].failure and "SIGKILL" in found["die"].failure.message


@pytest.mark.slow
@with_submitit
def test_a_job_that_is_taken_back_goes_on_from_its_checkpoint(place: Path, spawn: Spawn) -> None:
    slow = ("--categories", "a", "--set", "mine.py:Mine.wait=0.5", "--set", "mine.py:Mine.epochs=30")
    driver = spawn(*jobs(*slow))
    until(lambda: list((place / "results").glob("*/*/*/*.checkpoint.safetensors")))
    # As SLURM does, to every process of the job.
    told = {process.pid: process for process in submitted(place)}
    told |= {child.pid: child for process in [*told.values()] for child in process.children(recursive=True)}
    for process in told.values():
        process.send_signal(signal.SIGUSR2)
    said, wrong = driver.communicate(timeout=240)
    assert driver.returncode == 0, said + wrong
    (record,) = records(place).values()
    assert record.outcome == "ok"
    assert len(record.resumed) == 1
    assert len((place / "diary").read_text().splitlines()) == 2
    (path,) = records(place)
    found = undisturbed(place / path)
    (place / "results").rename(place / "taken")
    alone = spawn(*WORDS, *slow)
    assert alone.wait(timeout=240) == 0
    assert undisturbed(place / path) == found


@pytest.mark.slow
@with_submitit
def test_a_job_that_is_killed_is_a_failed_run_and_the_driver_goes_on(place: Path, spawn: Spawn) -> None:
    driver = spawn(*jobs("--categories", "a", "--seeds", "0,1", "--set", "mine.py:Mine.wait=2"))
    until(lambda: (place / "diary").exists() and len((place / "diary").read_text().splitlines()) == 2)
    first = submitted(place)[0]
    for process in [*first.children(recursive=True), first]:
        process.send_signal(signal.SIGKILL)
    said, wrong = driver.communicate(timeout=240)
    assert driver.returncode == 1, said + wrong
    outcomes = sorted(record.outcome for record in records(place).values())
    assert outcomes == ["failed", "ok"]
    lost = next(record for record in records(place).values() if record.failure)
    assert lost.failure is not None
    assert "was lost" in lost.failure.message
    assert "what it printed is in " in lost.failure.message


@pytest.mark.slow
@with_submitit
def test_an_interrupted_driver_cancels_its_jobs_and_the_same_command_goes_on(
    place: Path, spawn: Spawn
) -> None:
    words = jobs("--categories", "a", "--set", "mine.py:Mine.wait=1", "--set", "mine.py:Mine.epochs=20")
    driver = spawn(*words)
    until(lambda: list((place / "results").glob("*/*/*/*.checkpoint.safetensors")))
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=120)
    assert driver.returncode == 143
    until(lambda: not submitted(place))
    assert not records(place)
    again = spawn(*words)
    said, wrong = again.communicate(timeout=240)
    assert again.returncode == 0, said + wrong
    (record,) = records(place).values()
    assert record.resumed
    assert os.environ.get("SLURM_JOB_ID") is None
