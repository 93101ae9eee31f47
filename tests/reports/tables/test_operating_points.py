"""Operating points in a report: the CSV beside the tidy table, and what a cell opens on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from harness.results.store import write_record
from reports.write import write
from tests.reports.browser import opened
from tests.reports.page.test_page import POINTS, run


@pytest.fixture
def report(tmp_path: Path) -> Path:
    write_record(tmp_path / "results", run("alpha", "bolt", 0).model_copy(update={"operating": POINTS}))
    write_record(tmp_path / "results", run("alpha", "nut", 0))
    write(tmp_path / "results", tmp_path / "report")
    return tmp_path / "report"


def test_the_csv_has_each_threshold_and_split(report: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((report / "operating.csv").open()))
    names = [(r["category"], r["split"], r["rule"], r["target"], r["threshold"]) for r in rows]
    assert names == [
        ("bolt", split, "quantile", target, value)
        for target, value in (("5.0", "19.0"), ("1.0", "19.0"))
        for split in ("all", "structural")
    ]
    assert {(r["false_alarms"], r["recall"], r["fpr_at_95"], r["validation"]) for r in rows} == {
        ("50.0", "50.0", "50.0", "20")
    }
    assert float(rows[0]["recall_low"]) == pytest.approx(9.453, abs=0.001)
    assert "too few" in rows[0]["note"]
    write_record(tmp_path / "results", run("alpha", "bolt", 0))
    write(tmp_path / "results", report)
    assert not (report / "operating.csv").exists(), "an older one does not stay beside a new table"


def test_a_cell_opens_on_its_thresholds(report: Path) -> None:
    with opened(report / "index.html") as tab:
        tab.locator("table.opens tbody td button").first.click()
        found = tab.locator("[aria-label='At the line']")
        assert found.locator("tbody tr").count() == 2
        first = found.locator("tbody tr").first.inner_text()
        assert "bolt, seed 0" in first
        assert "50.0 % (9.5 to 90.5)" in first
        assert "For 1 % the quantile is the highest of 20" in tab.locator("dialog").inner_text()
