"""What is said beside numbers: how much of the test set was not scored, and that a newer version exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness.cli.main import main
from harness.data.unscored import official_counts
from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec
from reports.published.compare import compare_published
from reports.published.consistency import check_consistency
from reports.published.numbers import paper
from reports.rankings.leaderboard import build
from reports.tables.leaderboard_latex import tables
from reports.write import write
from tests.harness.places import hexadecimal

COUNTS = {"train": 9, "validation": 1, "normal": 16}


def record(
    category: str, protocol: str = "paper", unscored: int | None = None, version: int = 1, **change: Any
) -> RunRecord:
    spec = RunSpec(
        dataset=change.get("dataset", "mpdd"),
        category=category,
        method=change.get("method", "ulsad"),
        seed=change.get("seed", 0),
        protocol=protocol,
    )
    identity = Identity(
        method_version=version,
        config={},
        weights={},
        data="d",
        score_rule="max",
        incomplete_batches="kept" if unscored is None else "dropped",
    )
    test = change.get("test", 96)
    counts = COUNTS | {"test": test, "anomalous": test - 16}
    return RunRecord(
        key=hexadecimal(f"{spec}{identity}"),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        metrics={"all": {"image_auroc": 0.9}},
        categories=["metal_plate", "bracket_white"],
        counts=counts | ({} if unscored is None else {"unscored": unscored}),
        finished=change.get("finished", "2026-01-01T00:00:00"),
    )


def badges(*records: RunRecord, versions: dict[str, int] | None = None) -> list[tuple[str, ...]]:
    return [ranking.badges() for ranking in build(records, versions=versions).rankings]


def test_the_share_is_that_of_the_categories_however_many_runs_there_are() -> None:
    both = [record("metal_plate", unscored=1), record("bracket_white", unscored=28, test=32)]
    # 29 of 157.
    said = "18.5 % of the test images not scored, as in the published code"
    assert badges(*both) == [("selects on test data", said)]
    assert badges(*both, record("metal_plate", unscored=1, seed=1)) == badges(*both)
    assert badges(record("metal_plate", unscored=1))[0][1].startswith("1.0 % of the test images")
    assert badges(record("metal_plate", "drop-last", unscored=0)) == [()]
    assert badges(record("metal_plate", "strict", test=97)) == [()]


def test_earlier_records_of_paper_say_that_they_scored_everything_and_stand_apart() -> None:
    before, now = record("metal_plate", test=97), record("bracket_white", unscored=28, test=32)
    assert sorted(own[1] for own in badges(before, now)) == [
        "46.7 % of the test images not scored, as in the published code",
        "all test images scored, unlike in the published code",
    ]


def test_a_newer_version_is_told_be_it_installed_or_on_record() -> None:
    old = record("metal_plate", "strict")
    assert badges(old) == badges(old, versions={"ulsad": 1, "dfr": 9}) == [()]
    assert badges(old, versions={"ulsad": 3}) == [("earlier versions: ulsad 1 (now 3)",)]
    # Another dataset's record knows of it; so does one with settings of its own.
    other = record("a", "strict", version=2, dataset="visa", method="ulsad[lambda_l=0]")
    assert badges(old, other) == [("earlier versions: ulsad 1 (now 2)",), ()]
    board = build([old], versions={"ulsad": 3})
    assert board.notes == (
        "Records of ulsad are of version 1. There is version 3, which gives other numbers: run it again.",
    )
    assert r"\textbf{earlier versions: ulsad 1 (now 3)}" in "".join(tables(board).values())


def test_page_terminal_and_latex_say_both(tmp_path: Path) -> None:
    write_record(tmp_path / "results", record("metal_plate", unscored=1))
    words = ["report", "--results", str(tmp_path / "results"), "-o", str(tmp_path / "report")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    said = "1.0 % of the test images not scored, as in the published code"
    newer = "earlier versions: ulsad 1 (now "
    # A narrow table's title is set in lines.
    printed = " ".join(done.output.split())
    assert said.upper() in printed
    # The version of the method that is installed, found by the command.
    assert newer.upper() in printed
    html = (tmp_path / "report" / "index.html").read_text()
    assert f'<span class="badge">{said}</span>' in html
    assert f'<span class="badge">{newer}' in html
    latex = "".join(path.read_text() for path in (tmp_path / "report" / "tables").glob("mpdd-*.tex"))
    assert f"\\textbf{{{said.replace('%', chr(92) + '%')}}}" in latex
    assert newer in latex


# Published numbers


def test_the_audit_counts_the_images_of_each_dataset() -> None:
    found = check_consistency(paper(), official_counts())
    assert {cut.dataset: (cut.unscored, cut.images) for cut in found.cuts} == {
        "mvtec": (221, 1725),
        "visa": (146, 2162),
        "mvtec_loco": (96, 1568),
        "mpdd": (74, 458),
        "btad": (37, 741),
    }
    (said,) = found.cut_summary()
    assert "were probably measured without 574 of 6,654 test images, 8.6 %" in said
    assert check_consistency(paper()).cut_summary() == []
    told = CliRunner().invoke(main, ["report", "--audit"])
    assert said in " ".join(told.output.split())


def test_the_page_says_probably_beside_published_numbers(tmp_path: Path) -> None:
    write_record(tmp_path / "results", record("metal_plate", "strict", test=97))
    printed = write(tmp_path / "results", tmp_path / "report", test_images=official_counts())
    Console().print(*printed)
    html = (tmp_path / "report" / "index.html").read_text()
    section = html.partition('id="published"')[2].partition("</section>")[0]
    assert "probably measured without 574 of 6,654 test images" in section
    assert "all test images scored: the paper&#39;s code probably left out 1 of 97" in section


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record("metal_plate", "strict", test=97)], "left out 1 of 97"),
        ([record("metal_plate", "strict", test=96)], ""),
        ([record("metal_plate", unscored=1)], ""),
        ([record("metal_plate", "strict", test=97), record("bracket_white", "strict", test=60)], "29 of 157"),
    ],
)
def test_a_difference_in_what_was_scored_is_a_reason(records: list[RunRecord], reason: str) -> None:
    pair = compare_published(build(records), paper())[-1]
    assert (reason in "; ".join(pair.reasons)) if reason else "left out" not in "; ".join(pair.reasons)
