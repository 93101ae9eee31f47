"""`bench history`: a line for each check, and where a course changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.checks.regression.history import Course, Night
from harness.checks.regression.significance import change_points
from harness.cli.main import main
from tests.harness.checks.regression.results import write
from tests.reports.browser import opened


def bench(*words: object) -> Result:
    given = [str(word) for word in words]
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, given, catch_exceptions=False)


def test_checks_append_lines_and_history_shows_them(tmp_path: Path) -> None:
    bench("baseline", "--results", write(tmp_path / "old"), "-o", tmp_path / "b.json")
    write(tmp_path / "new", lost=0.05)
    file = tmp_path / "deep" / "history.jsonl"
    for _ in range(2):
        bench("check", "--baseline", tmp_path / "b.json", "--results", tmp_path / "new", "--history", file)
    with file.open("a") as written:
        written.write('{"half a li')
    bench("check", "--baseline", tmp_path / "b.json", "--results", tmp_path / "new", "--history", file)
    nights = [
        Night.model_validate_json(line) for i, line in enumerate(file.read_text().splitlines()) if i != 2
    ]
    assert len(nights) == 3
    assert nights[0].answer == "score worse"
    assert nights[0].cells["mpdd/a/ulsad/strict"]["image AUROC, %"] == 90
    result = bench("history", file, "--cell", "A/ULSAD")
    assert result.exit_code == 0
    assert "Left out: line 3" in result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("mpdd/a/ulsad")]
    assert ["mpdd/a/ulsad/strict", "image", "AUROC,", "%", "3", "90", "90", "▁▁▁"] in rows
    assert "3 checks, the last on" in result.stdout
    assert "score worse" in result.stdout


def test_a_change_is_marked_with_its_day_and_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "h.jsonl"
    with file.open("w") as written:
        for day in range(1, 29):
            values = {
                "image AUROC, %": 98 - (day > 14) + rng.normal(0, 0.2),
                "AUPRO, %": 90 + rng.normal(0, 0.2),
            }
            night = {"time": f"2026-02-{day:02}T03:00:00", "answer": "ok", "cells": {"d/c/m/strict": values}}
            written.write(json.dumps(night) + "\n")
    drawn = tmp_path / "page" / "history.html"
    lines = bench("history", file, "-o", drawn).stdout.splitlines()
    assert lines[-1] == f"Charts: {drawn}"
    with opened(drawn) as tab:
        assert tab.locator("figure").count() == 2
        assert "No value has changed" not in tab.locator("main").inner_text()
        assert tab.locator("svg circle").count() == 2 * 28
        assert tab.locator("svg .mark").count() == 1
        assert (
            "d/c/m/strict · image AUROC, % · 2026-02-15: 97.94 → 97.02" in tab.locator("li").all_inner_texts()
        )
        before, after = (
            float(m.get_attribute("y1")) for m in tab.locator("figure").last.locator(".mean").all()
        )
        assert before < after, "what fell lies lower"
        found = pytest.importorskip("axe_playwright_python.sync_playwright").Axe().run(tab)
        assert not found.response["violations"]
    auroc = next(line for line in lines if "image AUROC" in line)
    assert "2026-02-15: 97.94 → 97.02" in auroc
    assert "2026" not in next(line for line in lines if "AUPRO" in line)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no check"), ("{}\nx\n", "holds no check"), ('{"schema_version": 9}', "holds no check")],
)
def test_a_history_without_checks_is_a_sentence(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "h.jsonl").write_text(content)
    result = bench("history", tmp_path / "h.jsonl")
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert bench("history", tmp_path / "none.jsonl").exit_code == 2


def test_newer_lines_are_left_out(tmp_path: Path) -> None:
    night = {"time": "2026", "answer": "ok", "cells": {"a\n::error::": {"x": 1}}}
    lines = [json.dumps(night), json.dumps(night | {"schema_version": 2})]
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    result = bench("history", tmp_path / "h.jsonl")
    assert "line 2 has schema version 2" in result.stderr
    assert "1 checks" in result.stdout
    assert "\n::" not in result.output


def test_change_points_are_found_where_they_are_and_seldom_elsewhere() -> None:
    rng = np.random.default_rng(1)
    steps = np.concatenate([np.zeros(20), np.full(20, 3.0), np.full(20, 1.0)])
    assert change_points(steps + rng.normal(0, 0.3, 60)) == [20, 40]
    assert change_points(np.repeat([5.0, 4.0], 10)) == [10]
    assert change_points(np.zeros(50)) == []
    assert change_points(np.arange(5.0)) == []
    alone = np.zeros(40)
    alone[20] = -9
    assert change_points(alone) == [], "an outlier is no change"
    found = sum(bool(change_points(rng.normal(0, 1, 60), rounds=199)) for _ in range(300))
    assert found <= 9, "1 % of series, three standard deviations allowed"


def test_a_course_in_words() -> None:
    course = Course("c", "w", ("2026-01-01", "2026-01-02", "2026-01-03"), (1.0, 3.0, 3.0), (1,))
    assert list(course.described()) == ["2026-01-02: 1 → 3"]
    assert course.spark() == "▁██"
