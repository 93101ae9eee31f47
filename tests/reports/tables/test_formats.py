"""`bench report --format`: what is written, what stays, and names in Markdown."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.common.errors import UserError
from harness.results.store import write_record
from harness.spec.record import RunRecord
from reports.rankings.leaderboard import build
from reports.rankings.tidy_table import COLUMNS
from reports.tables.formats import FORMATS, asked, to_markdown
from reports.write import write
from tests.reports.simulated import Simulation

SMALL = Simulation(40, categories=("x", "y"), protocols=("strict",), epochs=1)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    SMALL.write(tmp_path / "results")
    return tmp_path / "results"


def test_by_default_a_report_is_csv_page_and_latex(results: Path, tmp_path: Path) -> None:
    lines = write(results, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"leaderboard.csv", "index.html", "tables"}
    assert lines[-1] == f"Report: {tmp_path / 'out' / 'index.html'}"


def test_only_what_is_asked_for_is_written_and_the_rest_stays(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("index.html", "leaderboard.csv", "published.csv"):
        (out / name).write_text("older")
    options = ["--results", str(results), "-o", str(out), "--format", "json, markdown"]
    done = CliRunner().invoke(main, ["report", *options])
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "leaderboard.csv",
        "published.csv",
        "leaderboard.json",
        "leaderboard.md",
    }
    assert (out / "published.csv").read_text() == "older"


def test_json_has_percent_numbers_and_null(results: Path, tmp_path: Path) -> None:
    write(results, tmp_path, formats="json")
    rows = json.loads((tmp_path / "leaderboard.json").read_text())
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {type(row["values"]) for row in rows} == {list}
    assert any(row["mean"] is None and row["status"] for row in rows)
    assert all(50 < row["mean"] <= 100 for row in rows if row["mean"] is not None)


@pytest.mark.parametrize("text", ["csv,word", "", ","])
def test_an_unknown_format_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=f"There is no format .*: there are {', '.join(FORMATS)}"):
        asked(text)
    done = CliRunner().invoke(main, ["report", "--format", text])
    assert done.exit_code == 2
    assert "there are csv" in done.output


def test_parquet_is_what_the_table_is(results: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write(results, tmp_path, formats="parquet,json")
    read = pandas.read_parquet(tmp_path / "leaderboard.parquet")
    assert tuple(read.columns) == COLUMNS
    rows = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [None if v != v else v for v in read["mean"].tolist()] == [row["mean"] for row in rows]
    first = [None if v is None or v != v else v for v in read["values"][0]]
    assert first == rows[0]["values"]


def test_parquet_without_pyarrow_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ulsad-bench\[parquet\]"):
        asked("csv,parquet")


def test_markdown_ranks_by_the_first_metric_and_names_are_harmless() -> None:
    hostile = "a|b <script>`*_[x](http://y) @who www.z.de #1\n# head"

    def named(record: RunRecord) -> RunRecord:
        name = hostile if record.spec.method == "method_00" else record.spec.method
        return record.model_copy(update={"spec": record.spec.model_copy(update={"method": name})})

    text = to_markdown(build([named(record) for record in SMALL.records() if record.outcome == "ok"]))
    shown = r"a\|b \<script\>\`\*\_\[x\](http\://y) \@who www\.z.de \#1 \# head"
    assert f"| {shown} |" in text
    assert "**SIMULATED**" in text
    assert "| method | Image AUROC |" in text
    counts = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ")}
    assert len(counts) == 3 or len(counts) == 2
    assert "**9" in text


def test_notes_are_in_markdown(results: Path, tmp_path: Path) -> None:
    torn = write_record(results, next(iter(SMALL.records())))
    torn.write_text("{")
    write(results, tmp_path, formats="markdown")
    assert "Damaged record skipped" in (tmp_path / "leaderboard.md").read_text()
