"""Chaos: a suite of small runs, its workers and its driver killed at random, started again until all is done.

``python -m tests.chaos.chaos --runs 200`` makes it in a folder of its own. The seed is printed; ``--seed``
makes the same moments again, as far as a machine's speed lets it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.harness.places import RUN, command, environment, files_in, make_place, undisturbed


@dataclass
class Toll:
    """What was done to a suite until it was done."""

    runs: int = 0
    drivers: int = 0
    workers: int = 0
    resumed: int = 0
    seconds: float = 0.0


def chaos(place: Path, runs: int, seed: int, kills: int) -> Toll:
    """Runs a suite undisturbed, then under attack, and compares.

    Args:
        place: a folder of :func:`make_place`.
        runs: how many runs, an even number.
        seed: of the moments and victims.
        kills: how many processes are killed at least, half of them drivers.
    """
    chance, toll = random.Random(seed), Toll(runs)
    words = [*RUN[:2], "mine.py:Mine[wait=0.3,epochs=3]", *RUN[3:-2], "--seeds", f"0-{runs // 2 - 1}"]
    words += ["--no-report", "--checkpoint-every", "0", "--quiet", "--device"]
    subprocess.run(
        command(*words, "cpu", "--results", "whole"), cwd=place, env=environment(place), check=True
    )
    victims = ["driver", "worker"] * (kills // 2)
    chance.shuffle(victims)
    began = time.monotonic()
    while victims:
        with ExitStack() as stack:
            driver = _start(place, [*words, chance.choice(["cpu", "cpu,cpu"])], stack)
            # Now and then a second one, as when somebody starts it in another window.
            second = _start(place, [*words, "cpu"], stack) if chance.random() < 0.2 else None
            _attack(place, driver, victims, chance, toll)
            if driver.wait() == 0:
                break  # all was done before everybody was killed
            if second:
                time.sleep(chance.uniform(0.2, 5.0))
                toll.drivers += second.poll() is None
    last = subprocess.run(command(*words, "cpu"), cwd=place, env=environment(place), timeout=600)
    assert last.returncode == 0
    toll.seconds = time.monotonic() - began
    toll.resumed = _compare(place, runs)
    return toll


def _attack(
    place: Path, driver: subprocess.Popen[bytes], victims: list[str], chance: random.Random, toll: Toll
) -> None:
    """Kills workers of a driver, one after the other, and then the driver, as the list of victims says."""
    _until_begun(place, driver)
    while victims and driver.poll() is None:
        time.sleep(chance.uniform(0.2, 5.0))
        if victims[-1] == "driver":
            toll.drivers += driver.poll() is None
            driver.kill()
            victims.pop()
            return
        if workers := _workers(driver.pid):
            os.kill(chance.choice(workers), chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS]))
            toll.workers += 1
            victims.pop()


def _start(place: Path, words: list[str], stack: ExitStack) -> subprocess.Popen[bytes]:
    """Starts a driver; where the stack ends, it is killed if it still runs."""
    quiet = subprocess.DEVNULL
    driver = subprocess.Popen(command(*words), cwd=place, env=environment(place), stdout=quiet, stderr=quiet)
    stack.callback(driver.wait)
    stack.callback(driver.kill)
    return driver


def _until_begun(place: Path, driver: subprocess.Popen[bytes]) -> None:
    """Waits for a training to begin: starting up takes longer than the runs, and is hit seldom enough."""
    diary = place / "diary"
    before = diary.stat().st_size if diary.exists() else 0
    while driver.poll() is None and (not diary.exists() or diary.stat().st_size == before):
        time.sleep(0.05)


def _workers(driver: int) -> list[int]:
    """The worker processes of a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"resource_tracker" not in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)


def _compare(place: Path, runs: int) -> int:
    """Makes sure that nothing was lost, doubled, changed or left; returns how many runs were gone on with."""
    whole, results = place / "whole", place / "results"
    names = {path.relative_to(whole) for path in whole.rglob("*.json")}
    assert len(names) == runs
    assert {path.relative_to(results) for path in files_in(results)} == names
    for name in names:
        assert undisturbed(results / name) == undisturbed(whole / name), name
    verified = subprocess.run(
        command("verify"), cwd=place, env=environment(place), capture_output=True, text=True
    )
    assert verified.stdout == f"{runs} records, 0 wrong.\n", verified.stdout
    until = time.monotonic() + 15
    while left := _processes(place):
        assert time.monotonic() < until, f"processes {left} are left"
        time.sleep(0.2)
    return sum(bool(json.loads((results / name).read_text())["resumed"]) for name in names)


def _processes(place: Path) -> list[int]:
    """The processes that were started for this place: its cache is in their environment."""
    mark, found = f"BENCH_CACHE={place / 'cache'}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in path.joinpath("environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    chosen = given.seed if given.seed is not None else int.from_bytes(os.urandom(4))
    print(f"seed {chosen}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        print(chaos(make_place(Path(folder)), given.runs, chosen, given.kills))  # noqa: T201
