"""What moves scores without making them worse is never silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.checks.regression.verdict import Report
from harness.results.store import write_record
from harness.spec.record import RunRecord
from tests.harness.checks.regression.results import GPU, SPREAD, record, write
from tests.harness.checks.regression.test_judge import bench

Check = Callable[..., Report]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Checks the folder ``new`` against the folder ``old``."""

    def call(*words: object) -> Report:
        base, file = tmp_path / "baseline.json", tmp_path / "report.json"
        assert bench("baseline", "--results", tmp_path / "old", "-o", base).exit_code == 0
        place = ("--baseline", base, "--results", tmp_path / "new", "--json", file)
        result = bench("check", *place, *words)
        report = Report.model_validate_json(file.read_text())
        assert result.exit_code == report.exit_code
        return report

    return call


def reasons(report: Report) -> str:
    return " ".join(reason for verdict in report.verdicts for reason in verdict.reasons)


def test_a_rise_asks_for_an_explanation(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new", lost=-0.012, turn=1)
    report = check()
    assert (report.exit_code, report.answer) == (2, "score changed")
    assert "image AUROC 95.00 → 96.20 (+1.20 points; paired t over seeds and categories" in reasons(report)
    assert "changed together, over several cells: 1" in report.summary
    assert not any("dfr" in verdict.name for verdict in report.verdicts if verdict.answer != "ok")


def test_a_small_rise_is_none(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new", lost=-0.004, spread=0.9)
    assert check().answer == "ok"
    assert check("--min-effect", "0.2").answer == "score changed"


@pytest.mark.parametrize(("seeds", "gain"), [(5, 0.002), (1, 0.04)])
def test_margins_hold_upwards_too(tmp_path: Path, check: Check, seeds: int, gain: float) -> None:
    write(tmp_path / "old", ("a", "b"), seeds=seeds, spread=0.0)
    write(tmp_path / "new", ("a", "b"), seeds=seeds, spread=0.0, lost=-gain)
    assert check().answer == "score changed"


def test_a_loss_elsewhere_counts_more_than_a_rise(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new", lost=-0.02, spread=0.9)
    write(tmp_path / "new", methods=("dfr",), hit=("dfr",), lost=0.02, spread=0.9)
    report = check()
    assert (report.exit_code, report.answer) == (1, "score worse")
    assert {verdict.answer for verdict in report.verdicts} >= {"score worse", "score changed"}


def with_aupro(made: RunRecord, value: float) -> RunRecord:
    split = made.metrics["all"] | {"aupro": value}
    return made.model_copy(update={"metrics": {"all": split}})


@pytest.mark.parametrize(("moved", "answer"), [(0.0, "ok"), (0.0008, "score changed")])
def test_aupro_alone_is_the_metric(tmp_path: Path, check: Check, moved: float, answer: str) -> None:
    for seed, deviation in enumerate(SPREAD):
        made = record(seed=seed, score=0.95 + deviation)
        write_record(tmp_path / "old", with_aupro(made, 0.9 + deviation))
        write_record(tmp_path / "new", with_aupro(made, 0.9 + deviation + moved))
    report = check()
    assert report.answer == answer
    assert ("the metric changed, not the maps" in reasons(report)) == (answer != "ok")


def test_aupro_may_move_with_the_maps(tmp_path: Path, check: Check) -> None:
    for seed, deviation in enumerate(SPREAD):
        for folder, moved in (("old", 0.0), ("new", 0.0008)):
            made = record(seed=seed, score=0.95 + deviation + moved)
            write_record(tmp_path / folder, with_aupro(made, 0.9 + deviation + moved))
    assert check().answer == "ok"


def test_seeds_that_agree_all_at_once_are_suspicious(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new", spread=0.0)
    report = check()
    assert report.answer == "score changed"
    assert "seeds 0, 1, 2, 3, 4 have the same scores now and differed in the baseline" in reasons(report)


def test_a_method_whose_seeds_always_agreed_is_not(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", spread=0.0)
    write(tmp_path / "new", spread=0.0)
    assert check().answer == "ok"


def test_one_seed_in_the_baseline_says_nothing_of_spread(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", seeds=1)
    write(tmp_path / "new", spread=0.0)
    assert "is the seed used?" not in reasons(check())


def test_exact_wants_the_same_digits_on_the_same_machine(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new")
    assert check("--exact").answer == "ok"
    write(tmp_path / "new", lost=0.0001, environment=GPU | {"git": "b" * 40})
    report = check()
    assert report.answer == "ok"
    assert "3 cells have other scores than the baseline, on the same hardware" in " ".join(report.notes)
    report = check("--exact")
    assert (report.exit_code, report.answer) == (2, "score changed")
    assert "seeds moved by up to 0.01 points on the same hardware and packages" in reasons(report)
    assert sum(verdict.answer == "score changed" for verdict in report.verdicts) == 3


def test_exact_says_where_it_cannot_be_asked_for(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old")
    other = GPU | {"packages": {"torch": "2.6.0", "anomalib": "2.7.0"}}
    write(tmp_path / "new", lost=0.0001, environment=other)
    report = check("--exact")
    assert report.answer == "ok"
    notes = {note for verdict in report.verdicts for note in verdict.notes}
    assert notes == {"not compared to the last digit: other packages.torch"}


def counted(made: RunRecord, **counts: int) -> RunRecord:
    return made.model_copy(update={"counts": counts})


@pytest.mark.parametrize(
    ("now", "answer"),
    [({"train": 24, "test": 30}, "ok"), ({"train": 54, "test": 30}, "not comparable"), ({}, "ok")],
)
def test_other_numbers_of_images_are_other_conditions(
    tmp_path: Path, check: Check, now: Any, answer: str
) -> None:
    for seed, deviation in enumerate(SPREAD):
        made = record(seed=seed, score=0.95 + deviation)
        write_record(tmp_path / "old", counted(made, train=24, test=30, normal=10 + seed))
        write_record(tmp_path / "new", counted(made, **now))
    report = check()
    assert report.answer == answer
    assert ("number of images: train 24 → 54" in reasons(report)) == (answer != "ok")


def test_explain_names_what_can_have_changed_a_score(tmp_path: Path) -> None:
    write(tmp_path / "old")
    write(tmp_path / "new", lost=-0.02, spread=0.9, environment=GPU | {"git": "b" * 40})
    base = tmp_path / "baseline.json"
    bench("baseline", "--results", tmp_path / "old", "-o", base)
    said = bench("check", "--baseline", base, "--results", tmp_path / "new", "--explain", "a/ulsad")
    assert "mpdd/a/ulsad/strict: score changed" in said.output
    assert "Likely reason: another commit of ulsad-bench" in said.output


def test_a_slow_down_that_is_allowed_is_allowed_for_few_runs_too(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", seeds=1)
    write(tmp_path / "new", seeds=1, slow=1.4)
    assert check().answer == "speed or memory worse"
    assert check("--min-slow-down", "60").answer == "ok"
