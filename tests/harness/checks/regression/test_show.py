"""What a check shows: hostile names are harmless in the terminal, Markdown, JUnit and workflow commands."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.common.text import annotation, markdown, plain
from tests.harness.checks.regression.results import write

HOSTILE = (
    "a|b\n::error::x\r<script>alert(1)</script>\x1b[31m##[add-mask]y `c` [d](http://e) \u202e\ufffe\0 100% ,"
)


def bench(*words: object, **environment: str) -> Result:
    given = [str(word) for word in words]
    return CliRunner(env=environment).invoke(main, given, catch_exceptions=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A baseline with a hostile category, and new results in which it lost, and another failed."""
    write(tmp_path / "old", (HOSTILE, "b", "c"), ("dfr", "ulsad"))
    bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "baseline.json")
    write(tmp_path / "new", (HOSTILE,), ("ulsad", "dfr"), lost=0.05)
    write(tmp_path / "new", ("b",), ("dfr",), failure=HOSTILE)
    return tmp_path


def words(place: Path) -> tuple[object, ...]:
    return ("check", "--baseline", place / "baseline.json", "--results", place / "new")


def commands(text: str) -> list[str]:
    """The lines that GitHub's runner takes for commands."""
    return [line for line in text.splitlines() if line.strip().startswith("::") or "##[" in line]


def test_text_is_one_harmless_line() -> None:
    shown = plain(HOSTILE)
    assert "a|bU+000A:U+003AerrorU+003A" not in shown
    assert shown.startswith("a|bU+000A:U+003Aerror:U+003AxU+000D<script>")
    assert "#U+0023[add-mask]" in shown
    assert not any(ord(c) < 32 or c in "\u202e\ufffe" for c in shown)
    assert plain("anomalib:Stfpm ulsad[lr=0.1] Größe → 3") == "anomalib:Stfpm ulsad[lr=0.1] Größe → 3"
    assert not set(markdown(HOSTILE)) & set("|<>`[]*_:\n")
    assert annotation("error", "a:b,c%", "1%\n::x") == "::error title=a%3Ab%2Cc%25::1%25U+000A:U+003Ax"


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_the_terminal_gets_no_escape_and_no_command(place: Path, width: str) -> None:
    result = bench(*words(place), COLUMNS=width)
    assert result.exit_code == 1
    assert not any(ord(c) < 32 and c != "\n" for c in result.output)
    assert not commands(result.output)
    assert "image AUROC 95.00 → 90.00 (-5.00 points" in result.output
    assert not commands(bench(*words(place), "--explain", "script>alert(1)</script>", COLUMNS=width).output)


def test_explain_is_harmless_too(place: Path) -> None:
    result = bench(*words(place), "--explain", f"mpdd/{HOSTILE}/ulsad/strict")
    assert result.exit_code == 1
    assert not commands(result.output)
    assert "\x1b" not in result.output


def test_annotations_are_the_only_commands(place: Path) -> None:
    found = commands(bench(*words(place), "--github").output)
    assert len([line for line in found if line.startswith("::error title=score worse%3A mpdd/a|b")]) == 1
    assert [line for line in found if line.startswith("::error title=bench check::score worse%3A")] == []
    assert found[-1].startswith("::error title=bench check::score worse: 2 of 6 cells")
    warnings = [line for line in found if line.startswith("::warning title=nothing measured%3A mpdd/")]
    assert len(warnings) == 4
    assert len(found) == 6
    assert not any("title=" in line and "\x1b" in line for line in found)


def test_markdown_is_a_table_whatever_the_names(place: Path, tmp_path: Path) -> None:
    page = bench(*words(place), "--markdown", "-").output
    assert not commands(page)
    assert "<script" not in page
    assert page.startswith("## ❌ bench check: score worse\n")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    counts = {line.count("|") for line in rows}
    assert counts == {4, 9}, "three columns above, eight below"
    assert len(rows) == 2 + 5 + 2 + 6
    assert "| mpdd/c/dfr/strict | nothing measured | no run of this cell is in the results |" in rows


def test_markdown_goes_behind_what_the_jobs_summary_has(place: Path) -> None:
    summary = place / "summary.md"
    summary.write_text("before\n")
    bench(*words(place), "--markdown", summary, GITHUB_STEP_SUMMARY=str(summary))
    assert summary.read_text().startswith("before\n## ❌")
    bench(*words(place), "--markdown", summary)
    assert summary.read_text().startswith("## ❌")


def test_junit_is_read_back(place: Path) -> None:
    bench(*words(place), "--junit", place / "deep" / "junit.xml")
    root = ElementTree.parse(place / "deep" / "junit.xml").getroot()  # noqa: S314 - our own file
    suite = root[0]
    cases = suite.findall("testcase")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "1", "4")
    assert len(cases) == 6
    assert sum(case.find("failure") is not None for case in cases) == 1
    assert sum(case.find("error") is not None for case in cases) == 4
    assert {case.get("classname") for case in cases} == {"mpdd"}
    failed = next(case for case in cases if case.find("failure") is not None)
    assert "<script>alert(1)</script>" in failed.get("name", "")
