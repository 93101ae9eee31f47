"""Tables that no page holds: split into panels and parts, nothing is lost, nothing hangs over a page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec, run_key
from reports.published.numbers import paper
from reports.tables.latex import STYLES, Notes, head, number, table
from reports.tables.page_breaks import Line, chunks, panels
from tests.reports.test_hostile import need_latex, run_latex


def cost(rows: object) -> float:
    assert isinstance(rows, list)
    return len(rows)


def test_parts_are_few_of_about_equal_height_and_repeat_the_title() -> None:
    title, rule = "\\multicolumn{2}{l}{x} \\\\", "\\midrule"
    some: list[Line] = [[str(i)] for i in range(10)]
    assert chunks(some, 10, cost) == [some]
    assert [len(part) for part in chunks(some, 9, cost)] == [5, 5]
    assert [len(part) for part in chunks(some, 4, cost)] == [4, 4, 2]
    assert chunks([title, *some[:4], rule, title, *some[4:]], 7, cost) == [
        [title, *some[:4]],
        [title, *some[4:]],
    ]
    parts = chunks([title, *some], 6, cost)
    assert [(part[0], len(part)) for part in parts] == [(title, 6), (title, 6)]
    # A row that is too high for any part has one to itself.
    assert chunks(some[:2], 0.5, cost) == [some[:1], some[1:2]]


def test_panels_repeat_what_names_the_row() -> None:
    assert panels([50, 10, 10, 10, 10], 1, 100) == [[0, 1, 2, 3, 4]]
    assert panels([50, 10, 10, 10, 10], 1, 80) == [[0, 1, 2], [0, 3, 4]]
    assert panels([50, 90, 10], 1, 80) == [[0, 1], [0, 2]]
    assert panels([50], 1, 10) == [[0]]


def record(method: str, category: str, seed: int, categories: tuple[str, ...], size: int = 256) -> RunRecord:
    spec = RunSpec(dataset="mvtec", category=category, method=method, seed=seed, image_size=size)
    identity = Identity(method_version=1, config={}, weights={}, data="d", score_rule="max")
    bad = (len(category) + seed + len(method)) % 7 == 0
    scores: dict[str, float | None] = dict.fromkeys(("image_auroc", "pixel_auroc", "aupro"), 0.9 + seed / 99)
    return RunRecord(
        key=run_key(spec, identity),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="failed" if bad else "ok",
        metrics={} if bad else {"all": scores},
        categories=list(categories),
    )


def pages(folder: Path, log: str) -> list[str]:
    """The text of each page; nothing hangs over a page or a line."""
    assert "too large" not in log
    assert "Overfull" not in log
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: the pages are not read")
    done = subprocess.run(
        ["pdftotext", "-layout", "all.pdf", "-"], cwd=folder, capture_output=True, text=True
    )
    return done.stdout.split("\f")


@pytest.mark.parametrize("style", STYLES)
def test_a_long_and_a_wide_ranking_fit_their_pages(tmp_path: Path, style: str) -> None:
    long = tuple(f"category_{i:03}" for i in range(100))
    wide = [f"some_method_{i:02}" for i in range(32)]
    for category in long:
        for method in ("one", "another_method"):
            write_record(tmp_path / "results", record(method, category, 0, long))
    for method in wide:
        for category in ("a", "b", "c"):
            for seed in (0, 1):
                write_record(tmp_path / "results", record(method, category, seed, ("a", "b", "c"), 128))
    options = ["--results", str(tmp_path / "results"), "-o", str(tmp_path), "--format", "latex"]
    done = CliRunner().invoke(main, ["report", *options, "--latex-style", style])
    assert done.exit_code == 0, done.output
    text = next((tmp_path / "tables").glob("mvtec-strict-256-*-detection.tex")).read_text()
    assert text.count("\\label") == 1
    assert text.count("(continued)") == text.count("\\begin{table") - 1 >= 1
    assert text.count("Category & ") == text.count("\\begin{table")
    assert re.findall(r"^category\\_(\d+)", text, re.M) == [name[-3:] for name in long]
    need_latex()
    shown = pages(tmp_path / "tables", run_latex(tmp_path / "tables"))
    # Every note stands on the page of the dash that it explains.
    for page in shown:
        assert ("–a" in page) <= ("failed" in page or "runs" in page)
    assert all(any(f"{name[-3:]}" in page for page in shown) for name in long)


@pytest.mark.parametrize("style", STYLES)
def test_tables_of_the_paper_with_many_measured_blocks_fit_their_pages(tmp_path: Path, style: str) -> None:
    printed = [n for n in paper() if n.table == "7"]
    categories = tuple(dict.fromkeys(n.category for n in printed if n.category != "mean"))
    for size in (256, 128, 192, 320):
        for method in {n.method for n in printed}:
            for category in categories:
                write_record(tmp_path / "results", record(method, category, 0, categories, size))
    options = ["--results", str(tmp_path / "results"), "-o", str(tmp_path), "--latex-style", style]
    done = CliRunner().invoke(main, ["report", "--tables", "table-7,table-8,table-9", *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "paper" / "table-7.tex").read_text()
    assert text.count("\\begin{table") > 1
    body = [line for line in text.splitlines() if " & " in line and "Category" not in line]
    # No method has every run, so that only the printed block has a mean.
    assert len(body) == 5 * len(categories) + 1
    need_latex()
    pages(tmp_path / "paper", run_latex(tmp_path / "paper"))


def test_a_note_stands_below_the_part_that_needs_it() -> None:
    notes = Notes()
    rows: list[list[str]] = [["Category", head("m", notes)]]
    told = {3: "timeout", 90: "failed"}
    rows += [[str(i), number(told.get(i, "1.0"), 0, notes)] for i in range(99)]
    first, *others = table("tmlr", "c", "l", "lr", rows, notes).split("\\begin{table}")[1:]
    assert "timeout" in first
    assert "failed" not in first
    assert "failed" in others[-1]
    assert "timeout" not in others[-1]
