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

from harness.check.baseline import Baseline, read_baseline, write_baseline
from harness.check.report import Report
from tests.sabotage.faults import ALL, Edit, Fault

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(__file__).with_name("suite.toml")
# What a machine that others use does to the times of two runs of one second.
SLOW_DOWN = 60


class AnchorError(Exception):
    """A fault cannot be planted: the text that it changes is not there, or there twice."""


def copy_project(folder: Path, edits: Sequence[Edit] = ()) -> Path:
    """Copies the packages and cards into a new folder and makes a fault's changes there.

    Raises:
        AnchorError: a change does not fit the file; the fault must be written anew.
    """
    for room in ("harness", "methods", "reports", "datasets"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        file = folder / edit.file
        text = file.read_text(encoding="utf-8")
        if (count := text.count(edit.old)) != 1:
            raise AnchorError(f"{edit.file} holds {count} times, not once: {edit.old!r}")
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return folder


def bench(project: Path, place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Calls the `bench` of a copy, with a cache of its own: decoded images must not come from another."""
    environment = {**os.environ, "PYTHONPATH": str(project), "BENCH_CACHE": str(place / "cache")}
    # Without a terminal, and with one width, so that sentences are whole.
    environment |= {"COLUMNS": "200"}
    command = [sys.executable, "-m", "harness.cli", *map(str, words)]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )


@dataclass(frozen=True)
class Checked:
    """What a check said.

    Attributes:
        report: by the rules as they are.
        exact: with ``--exact``.
        seconds: that the runs took.
    """

    report: Report
    exact: Report
    seconds: float

    def reasons(self, exact: bool = False) -> list[str]:
        """Returns why cells are not ok, what is measured of fewer cells last."""
        report = self.exact if exact else self.report
        bad = [verdict for verdict in report.verdicts if verdict.answer != "ok"]
        bad.sort(key=lambda verdict: verdict.answer != report.answer)
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
            copy_project(self.project)
        self._baseline = folder / "baseline.json"
        if not self._baseline.is_file():
            results = [self._run(self.project, folder / f"old{turn}", methods) for turn in range(repeats)]
            words = [word for one in results for word in ("--results", one)]
            made = bench(self.project, folder, "baseline", *words, "-o", self._baseline)
            assert made.returncode == 0, made.stderr

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
        results = self._run(project, place, methods)
        seconds = time.monotonic() - began
        cells = [cell for cell in self.baseline.cells if cell.method.partition("[")[0] in methods]
        write_baseline(place / "baseline.json", self.baseline.model_copy(update={"cells": cells}))
        words = ("check", "--baseline", "baseline.json", "--results", results, "--min-slow-down", SLOW_DOWN)
        reports = []
        for more in ((), ("--exact",)):
            said = bench(self.project, place, *words, *more, "--json", "report.json")
            report = Report.model_validate_json((place / "report.json").read_text())
            assert said.returncode == report.exit_code, said.stderr
            reports.append(report)
        return Checked(*reports, seconds)

    def _run(self, project: Path, place: Path, methods: Sequence[str]) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        words = ("run", "--suite", SUITE, "--methods", ",".join(methods), "--device", "cpu", "--measure", 0)
        done = bench(project, place, *words, "--no-report", "--quiet", "--results", "results")
        # A fault may make runs fail: that is for the check to find.
        assert list((place / "results").rglob("*.json")), done.stderr
        return place / "results"
