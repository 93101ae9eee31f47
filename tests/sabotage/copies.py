"""Copies of the project with one fault, runs of them, and checks against what the unchanged copy gave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from harness.checks.regression.baseline import Baseline, read_baseline, write_baseline
from harness.checks.regression.verdict import Report
from harness.cli.main import main
from tests.sabotage.faults import ALL, Edit, Fault

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(__file__).with_name("suite.toml")
# Times are seconds of the processor in every copy, which others at work on the machine hardly change.
CLOCK = tuple(
    Edit("harness/profiling/timing.py", *(line.format(clock) for clock in ("perf_counter", "process_time")))
    for line in (
        "        self._since = time.{}()\n",
        "        self.seconds += time.{}() - self._since\n",
    )
)
# What is left of them, in percent: runs of a second on a core that others' caches are in.
SLOW_DOWN = 60


class AnchorError(Exception):
    """A fault cannot be planted: the text that it changes is not there, or there twice."""


def copy_project(folder: Path, edits: Sequence[Edit] = ()) -> Path:
    """Copies the packages and cards into a new folder and makes changes there: the clock, and a fault's.

    Raises:
        AnchorError: a change does not fit the file; the fault must be written anew.
    """
    for room in ("harness", "methods", "reports", "datasets"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in changed(folder, (*CLOCK, *edits)).items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def changed(folder: Path, edits: Sequence[Edit]) -> dict[str, str]:
    """Returns the files that changes touch, by name, as they are afterwards; see :func:`copy_project`."""
    texts: dict[str, str] = {}
    for edit in edits:
        text = texts.get(edit.file) or (folder / edit.file).read_text(encoding="utf-8")
        if (count := text.count(edit.old)) != 1:
            raise AnchorError(f"{edit.file} holds {count} times, not once: {edit.old!r}")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def run(project: Path, place: Path, methods: Sequence[str]) -> Path:
    """Runs the suite by the `bench` of a copy and returns the results folder, ``results`` in a place."""
    place.mkdir(parents=True, exist_ok=True)
    # A cache of its own: images that another copy decoded must not come from there.
    environment = {**os.environ, "PYTHONPATH": str(project), "BENCH_CACHE": str(place / "cache")}
    words = ("run", "--suite", SUITE, "--methods", ",".join(methods), "--device", "cpu", "--measure", "0")
    command = [sys.executable, "-m", "harness.cli", *words, "--no-report", "--quiet"]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    # A fault may make runs fail, which is for the check to find, but not all of `bench`.
    assert list((place / "results").rglob("*.json")), done.stderr
    return place / "results"


def check(baseline: Path, results: Sequence[Path], *more: str) -> Report:
    """Checks results, of one time or of several, by the `bench` of this checkout."""
    file = baseline.with_name("report.json")
    words = ["--baseline", str(baseline), "--min-slow-down", str(SLOW_DOWN)]
    words += [word for one in results for word in ("--results", str(one))]
    said = CliRunner().invoke(main, ["check", *words, *more, "--json", str(file)])
    report = Report.model_validate_json(file.read_text(encoding="utf-8"))
    assert said.exit_code == report.exit_code, said.output
    return report


@dataclass(frozen=True)
class Checked:
    """What a check said.

    Attributes:
        report: by the rules as they are.
        exact: with ``--exact``.
        seconds: that the runs and the check took.
        again: whether it was measured again, the first time having been slower.
    """

    report: Report
    exact: Report
    seconds: float
    again: bool = False

    def reasons(self) -> list[str]:
        """Returns why cells are not ok with ``--exact``, those first that gave the answer."""
        bad = [verdict for verdict in self.exact.verdicts if verdict.answer != "ok"]
        bad.sort(key=lambda verdict: verdict.answer != self.exact.answer)
        return [f"{verdict.name}: {reason}" for verdict in bad for reason in verdict.reasons]


class Laboratory:
    """A folder with an unchanged copy and its baseline, in which faulty copies are compared.

    Args:
        folder: to work in; what it has of an earlier time is used again.
        repeats: how many times the baseline is measured, so that it knows the machine's noise.
        methods: that the baseline has.
    """

    def __init__(self, folder: Path, repeats: int, methods: Sequence[str] = ALL) -> None:
        self.folder, self._methods = folder, methods
        self.project = folder / "project"
        if not self.project.is_dir():
            copy_project(self.project)  # a file that is edited meanwhile is no fault
        self._baseline = folder / "baseline.json"
        if not self._baseline.is_file():
            results = [run(self.project, folder / f"old{turn}", methods) for turn in range(repeats)]
            words = [word for one in results for word in ("--results", str(one))]
            made = CliRunner().invoke(main, ["baseline", *words, "-o", str(self._baseline)])
            assert made.exit_code == 0, made.output

    @property
    def baseline(self) -> Baseline:
        """What the unchanged copy gave."""
        return read_baseline(self._baseline)

    def plant(self, fault: Fault) -> Checked:
        """Runs a copy with a fault and checks it."""
        place = self.folder / "".join(c if c.isalnum() else "-" for c in fault.name)
        shutil.rmtree(place, ignore_errors=True)
        copy_project(place / "project", fault.edits)
        return self._checked(place / "project", place, fault.methods)

    def repeat(self, turn: int) -> Checked:
        """Runs the unchanged copy again and checks it."""
        place = self.folder / f"quiet{turn}"
        shutil.rmtree(place, ignore_errors=True)
        return self._checked(self.project, place, self._methods)

    def _checked(self, project: Path, place: Path, methods: Sequence[str]) -> Checked:
        began = time.monotonic()
        results = [self._run(project, place, methods)]
        cells = [cell for cell in self.baseline.cells if cell.method.partition("[")[0] in methods]
        base = place / "baseline.json"
        write_baseline(base, self.baseline.model_copy(update={"cells": cells}))
        found, exact = check(base, results), check(base, results, "--exact")
        # As the nightly workflow does: measured once more before it is said that something is slower.
        again = "speed or memory worse" in (found.answer, exact.answer)
        if again:
            results.append(self._run(project, place / "again", methods))
            found, exact = check(base, results), check(base, results, "--exact")
        return Checked(found, exact, time.monotonic() - began, again)

    def _run(self, project: Path, place: Path, methods: Sequence[str]) -> Path:
        # The pictures that the demo consists of are made once; what is decoded of them, by every copy.
        for made in (self.folder / "old0/cache").glob("demo-*"):
            shutil.copytree(made, place / "cache" / made.name)
        return run(project, place, methods)
