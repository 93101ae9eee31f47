"""What befalls a benchmark: each fault is made to happen, and the sentence that is then said is read."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.common import files
from harness.common.errors import UserError
from harness.common.places import Places
from harness.execution.claims import Claims
from harness.results import store
from harness.spec.record import RunRecord
from tests.harness.places import RUN, Spawn, command, environment, files_in, make_place, records, spawning

# Each waits for processes to die, or for clocks.
pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_place(tmp_path)


@pytest.fixture
def spawn(place: Path) -> Iterator[Spawn]:
    with spawning(place, environment(place)) as call:
        yield call


def run(parameters: str, *words: str) -> list[str]:
    return [*RUN[:2], f"mine.py:Mine{parameters}", *RUN[3:], "--no-report", *words]


def until(happens: Callable[[], object], process: subprocess.Popen[str], seconds: float = 90) -> None:
    began = time.monotonic()
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def begun(place: Path, count: int = 1) -> Callable[[], bool]:
    """Whether so many trainings have begun: the method of the place writes it down."""
    diary = place / "diary"
    return lambda: diary.exists() and len(diary.read_text().splitlines()) >= count


def worker(place: Path) -> int:
    return int((place / "diary").read_text().splitlines()[-1].split()[0])


def end(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err
    return process.returncode, out, err


def only(place: Path) -> RunRecord:
    ((_, record),) = records(place).items()
    return record


# Two drivers


def test_two_on_one_folder_do_each_run_once(place: Path, spawn: Spawn) -> None:
    words = run("[wait=0.2]", "--seeds", "0-3")
    drivers = [spawn(*words), spawn(*words)]
    ends = [end(driver) for driver in drivers]
    assert [code for code, _, _ in ends] == [0, 0]
    done = [line.split()[1] for line in (place / "diary").read_text().splitlines()]
    assert len(done) == 8, "each training began once in total"
    assert len(records(place)) == 8
    said = "".join(out for _, out, _ in ends)
    assert said.count(": started") == 8
    assert said.count("(by another bench run)") == 8, "and each tells of all"
    assert [p.name for p in files_in(place / "results") if p.suffix != ".json"] == []


def test_the_claims_of_a_killed_driver_are_taken_over(place: Path, spawn: Spawn) -> None:
    first = spawn(*run("[wait=1.5]", "--categories", "a"))
    until(begun(place), first)
    second = spawn(*run("[wait=1.5]", "--categories", "a"))
    time.sleep(3)
    first.kill()
    code, out, _ = end(second)
    assert code == 0
    assert ": started" in out
    assert only(place).outcome == "ok"
    assert not list((place / "results").rglob("*.claim"))


def test_claims_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    from filelock import FileLock

    from harness.results.locks import sweep

    folder = tmp_path / "d" / "c" / "m"
    folder.mkdir(parents=True)
    (folder / "dead.claim").touch()
    with FileLock(folder / "living.claim"):
        sweep(tmp_path)
        assert [path.name for path in folder.iterdir()] == ["living.claim"]


# Workers and drivers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_ends_its_own_run_only(place: Path, spawn: Spawn, number: signal.Signals) -> None:
    driver = spawn(*run("[wait=1]"))
    until(begun(place), driver)
    os.kill(worker(place), number)
    code, out, err = end(driver)
    assert code == 1
    assert f"the worker process was ended by {number.name}" in out
    assert "1 of 2 runs failed" in err
    assert sorted(r.outcome for r in records(place).values()) == ["failed", "ok"]
    assert spawn(*run("[wait=1]")).wait(120) == 0
    assert {r.outcome for r in records(place).values()} == {"ok"}


def test_no_run_inherits_the_worker_of_a_failed_one(place: Path, spawn: Spawn) -> None:
    """A CUDA error poisons its process, lost memory stays lost: the next run has a new process."""
    names = "mine.py:Mine[fault=raise],mine.py:Mine,mine.py:Mine[epochs=2]"
    words = [*RUN[:2], names, *RUN[3:], "--categories", "a", "--no-report"]
    assert end(spawn(*words))[0] == 1
    failed, first, second = (line.split()[0] for line in (place / "diary").read_text().splitlines())
    assert failed != first == second


def test_workers_end_with_a_killed_driver(place: Path, spawn: Spawn) -> None:
    driver = spawn(*run("[wait=60]"))
    until(begun(place), driver)
    alone = worker(place)
    driver.kill()
    began = time.monotonic()
    while Path(f"/proc/{alone}").exists() and "zombie" not in Path(f"/proc/{alone}/status").read_text():
        assert time.monotonic() - began < 15
        time.sleep(0.1)


def test_a_worker_that_is_stopped_is_given_up(place: Path) -> None:
    code = f"""
import os, sys, threading, time
from pathlib import Path
import harness.execution.executors.local as local
local.SILENCE = 8.0
local.run_all.__defaults__ = (8.0,)
def stop():
    while not Path("diary").exists():
        time.sleep(0.05)
    os.kill(int(Path("diary").read_text().split()[0]), 19)
if __name__ == "__main__":
    threading.Thread(target=stop, daemon=True).start()
    sys.argv = ["bench", *{run("[wait=5]", "--categories", "a")!r}]
    from harness.cli.main import main
    main()
"""
    (place / "stopped.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "stopped.py"],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "failed: the worker process gave no sign of life for 8 s and was ended" in done.stdout


def test_a_worker_that_hangs_is_ended_after_the_timeout(place: Path, spawn: Spawn) -> None:
    code, out, _ = end(spawn(*run("[wait=600]", "--categories", "a", "--timeout", "9")))
    assert code == 1
    assert "timeout: took longer than 9 s" in out


def test_sigterm_saves_the_training_and_says_how_to_go_on(place: Path, spawn: Spawn) -> None:
    words = run("[wait=2,epochs=6]", "--categories", "a")
    driver = spawn(*words, start_new_session=True)
    until(begun(place), driver)
    began = time.monotonic()
    # As clusters do: to the whole process group.
    os.killpg(driver.pid, signal.SIGTERM)
    code, _, err = end(driver)
    assert time.monotonic() - began < 20
    assert code == 143
    assert "Stopped by SIGTERM. Finished runs are kept; go on with:\n  bench run --methods" in err
    assert not records(place)
    assert len(list((place / "results").rglob("*.checkpoint.safetensors"))) == 1, "saved before its time"
    assert end(spawn(*words))[0] == 0
    assert only(place).resumed[0] >= 1
    assert not [p for p in files_in(place / "results") if p.suffix != ".json"]


def test_sigterm_between_runs_lets_a_short_run_end(place: Path, spawn: Spawn) -> None:
    driver = spawn(*run("[wait=2,epochs=1]"))
    until(begun(place), driver)
    driver.terminate()
    code, _, _ = end(driver)
    assert code == 143
    assert len(records(place)) == 1, "the run that went on is recorded, no other began"


# Disks and folders


def test_a_results_folder_that_goes_read_only_in_mid_run(place: Path, spawn: Spawn) -> None:
    """Root may write anywhere, so that a file in the way stands for the missing permission."""
    driver = spawn(*run("[wait=1]"))
    until(begun(place), driver)
    folder = next((place / "results" / "own" / "a").iterdir())
    shutil.rmtree(folder)
    folder.write_text("in the way")
    code, _, err = end(driver)
    assert code == 2
    assert err.startswith("Error: The results folder results cannot be written (")
    assert "give another --results." in err


def test_a_results_folder_that_is_removed_in_mid_run(place: Path, spawn: Spawn) -> None:
    driver = spawn(*run("[wait=0.7]"))
    until(begun(place, 2), driver)
    shutil.rmtree(place / "results")
    code, _, err = end(driver)
    assert code == 2
    assert "was removed or replaced while runs went on: put it back, or run again" in err
    assert len(records(place)) == 1, "what has just ended is kept"
    assert end(spawn(*run("[wait=0.7]")))[0] == 0
    assert len(records(place)) == 2


def test_a_disk_that_refuses_the_record_in_its_middle(place: Path, spawn: Spawn) -> None:
    assert end(spawn(*run("", "--categories", "a", "--results", "warm")))[0] == 0
    for path in (place / "results", place / "diary"):
        shutil.rmtree(path, ignore_errors=True)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))  # noqa: E731
    code, _, err = end(spawn(*run("", "--categories", "a"), preexec_fn=limit))
    assert code == 2
    assert "The results folder results cannot be written (File too large)" in err
    assert files_in(place / "results") == [], "nothing half-written stays"
    assert end(spawn(*run("", "--categories", "a")))[0] == 0


def test_a_full_disk_in_the_middle_of_a_record(place: Path, spawn: Spawn, tmp_path: Path) -> None:
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "none", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (small / "ballast").write_bytes(bytes(4096))
        record = only_record(place, spawn)
        with pytest.raises(UserError, match=r"The disk of the results folder .* is full: free space"):
            store.write_record(small / "results", record.model_copy(update={"remarks": ["x" * 20_000]}))
        assert not [p for p in files_in(small / "results") if p.name != "ballast"]
        (small / "ballast").unlink()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def only_record(place: Path, spawn: Spawn) -> RunRecord:
    assert end(spawn(*run("", "--categories", "a")))[0] == 0
    return only(place)


def test_a_share_that_answers_eio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    museum = store.read_record(Path(__file__).parents[2] / "museum" / "2026-first.json")
    assert isinstance(museum, RunRecord)
    path = store.write_record(tmp_path, museum)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", broken)
        assert store.read_records(tmp_path).damaged == ((path, "cannot be read: Input/output error"),)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "scandir", broken)
        with pytest.raises(UserError, match="cannot be read \\(Input/output error\\)"):
            store.read_records(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", broken)
        with pytest.raises(UserError, match="cannot be written \\(Input/output error\\)"):
            store.write_record(tmp_path, museum)
    assert store.read_record(path) != ""


def test_a_share_whose_listings_are_stale_has_no_run_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    museum = store.read_record(Path(__file__).parents[2] / "museum" / "2026-first.json")
    assert isinstance(museum, RunRecord)
    with monkeypatch.context() as patch:
        # Another machine has recorded the run; listings here still show the folder as it was, empty.
        patch.setattr(store.os, "scandir", lambda _: contextlib.nullcontext(iter(())))
        store.write_record(tmp_path, museum)
        assert store.read_records(tmp_path).records == ()
        path = store.record_path(tmp_path, museum.spec, museum.key)
        places = Places(tmp_path, results=tmp_path)
        task: Any = SimpleNamespace(places=places, spec=museum.spec, key=museum.key, record_path=path)
        claims = Claims([task], {})
        assert list(claims) == [], "the file itself is looked at before a run begins"
        assert [record.key for record in claims.found()] == [museum.key]


# Data and clocks


def test_an_image_that_vanishes_in_mid_run(place: Path, spawn: Spawn) -> None:
    driver = spawn(*run("[wait=1]"))
    until(begun(place), driver)
    (place / "data" / "own" / "b" / "train" / "good" / "3.png").unlink()
    code, out, _ = end(driver)
    assert code == 1
    assert "its category's files have changed since the run was planned: run again" in out
    assert sorted(r.outcome for r in records(place).values()) == ["failed", "ok"]


def test_a_mask_that_vanishes_in_mid_run(place: Path, spawn: Spawn) -> None:
    driver = spawn(*run("[wait=1]"))
    until(begun(place), driver)
    (place / "data" / "own" / "b" / "ground_truth" / "bad" / "3.png").unlink()
    code, out, _ = end(driver)
    assert code == 1
    assert "b/test/bad/3.png has no mask: restore it from https://example.org" in out


def test_a_clock_that_is_set_back(place: Path, spawn: Spawn) -> None:
    """Every process sees the time of day jump back by an hour each second; durations must not care."""
    (place / "sitecustomize.py").write_text(
        "import time\nnow, ns = time.time, time.time_ns\nbegan = now()\n"
        "def back(): return now() - 3600 * (now() - began)\n"
        "time.time, time.time_ns = back, lambda: int(back() * 1e9)\n"
    )
    env = environment(place)
    env["PYTHONPATH"] = f"{place}{os.pathsep}{env.get('PYTHONPATH', '')}"
    words = run("[wait=0.5]", "--timeout", "60")
    done = subprocess.run(command(*words), cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for record in records(place).values():
        assert record.timings is not None
        assert 1.5 <= record.timings.fit < 30
    again = subprocess.run(command("verify"), cwd=place, env=env, capture_output=True, text=True, timeout=60)
    assert again.stdout == "2 records, 0 wrong.\n"
