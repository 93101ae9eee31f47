"""The table of costs, from records whose costs are known, and the command that makes both."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.spec.efficiency import Efficiency, Quantity
from harness.spec.record import RunRecord
from reports.rankings.leaderboard import build
from reports.tables.suites import sheet
from tests.harness.places import command, environment, make_place
from tests.reports.tables.test_suites import record


def costed(method: str, speed: float, category: str = "a", gpu: str = "", busy: bool = False) -> RunRecord:
    made = record(0.5, category=category, method=method)
    found = Efficiency(
        throughput={
            size: Quantity(median=speed * factor, low=1, high=2 * speed * factor, count=9)
            for size, factor in (("1", 0.5), ("32", 1), ("64", 1.5))
        },
        latency=Quantity(median=0.002, low=0.001, high=0.003, count=9),
        memory={"fit": {"host": 3 * 10**9, "device": 2 * 10**9}, "predict": {"host": 10**9}},
        parameters=25_000_000,
        flags=["busy: other processes used 50 % of the processor"] if busy else [],
    )
    return made.model_copy(
        update={"efficiency": found, "environment": {"cpu": "a CPU", "threads": 2, "gpu": gpu}}
    )


def rows(records: list[RunRecord]) -> list[dict[str, str]]:
    made = sheet("efficiency", build(records))
    assert made is not None
    return list(csv.DictReader(made.csv().splitlines()))


def test_columns_are_what_was_measured() -> None:
    fast, slow = rows([costed("fast", 40), costed("slow", 10)])
    assert (fast["method"], fast["img/s, batch 1"], fast["img/s, batch 32"]) == ("fast", "20.0", "40.0")
    assert (fast["img/s, best batch"], fast["img/s, batch 8"]) == ("60.0", "not measured")
    assert (fast["latency, ms"], fast["predict, GB"], fast["fit, GB"]) == ("2.0", "1.00", "2.00")
    assert (fast["parameters, M"], fast["GFLOP"]) == ("25.0", "not measured")
    assert slow["img/s, batch 32"] == "10.0"
    assert fast["numbers"] == slow["numbers"]


def test_machines_and_disturbed_runs_stand_apart() -> None:
    found = rows(
        [
            costed("fast", 40),
            costed("slow", 10, gpu="a GPU"),
            costed("other", 10, gpu="another GPU"),
            costed("busy", 10, busy=True),
        ]
    )
    assert len({row["numbers"] for row in found}) == 4
    busy = next(row["numbers"] for row in found if row["method"] == "busy")
    assert busy.endswith("a busy or throttled machine")


def test_the_best_of_a_block_is_bold_and_nothing_is_made_of_nothing() -> None:
    made = sheet("efficiency", build([costed("fast", 40), costed("slow", 10)]))
    assert made is not None
    assert "\\textbf{40.0}" in made.latex("tmlr")
    assert "\\textbf{10.0}" not in made.latex("tmlr")
    assert sheet("efficiency", build([record(0.5)])) is None


@pytest.mark.parametrize("style", ["tmlr", "ieee"])
def test_the_table_compiles(style: str, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the LaTeX is not compiled")
    from reports.tables import paper as paper_tables

    board = build([costed("fast", 40), costed("slow", 10)])
    for name, content in paper_tables.files("efficiency", [], board, style).items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_bench_efficiency_measures_and_prints_costs_only(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    words = ["efficiency", "--methods", "mine.py:Mine", "--datasets", "own.toml", "--categories", "a"]
    done = subprocess.run(
        [*command(*words, "--image-size", "32", "--measure", "1")],
        cwd=place,
        env=environment(place) | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "img/s, batch 32" in done.stdout
    assert "leaderboard" not in done.stdout
    made = sorted(path.name for path in (place / "efficiency" / "report" / "paper").iterdir())
    assert made == ["all.tex", "efficiency.csv", "efficiency.html", "efficiency.tex"]
    assert not (place / "results").exists()
