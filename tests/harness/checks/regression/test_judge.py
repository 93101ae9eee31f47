"""`bench baseline` and `bench check` by the command line: every answer, every exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.checks.regression.verdict import Report
from harness.cli.main import main
from harness.results.store import write_record
from tests.harness.checks.regression.results import GPU, record, write

Check = Callable[..., tuple[Result, Report]]


def bench(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A baseline of six cells with five seeds each, at ``baseline.json``."""
    write(tmp_path / "old")
    assert bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "baseline.json").exit_code == 0
    return tmp_path / "baseline.json"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def call(*words: object) -> tuple[Result, Report]:
        file = tmp_path / "report.json"
        place = ("--baseline", tmp_path / "baseline.json", "--results", tmp_path / "new")
        result = bench("check", *place, "--json", file, *words)
        return result, Report.model_validate_json(file.read_text())

    return call


def answers(report: Report) -> dict[str, str]:
    return {verdict.name: verdict.answer for verdict in report.verdicts if verdict.answer != "ok"}


def test_the_baseline_is_small_readable_and_the_same_again(old: Path, tmp_path: Path) -> None:
    text = old.read_text()
    bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text
    made = json.loads(text)
    assert made["schema_version"] == 1
    assert len(made["cells"]) == 6
    assert len(made["environments"]) == len(made["fingerprints"]) == 1
    assert made["cells"][0]["scores"]["image_auroc"]["spread"] == pytest.approx(0.3335)
    assert '\n      "3": [95.25],\n' in text, "a seed is a line"
    assert max(map(len, text.splitlines())) < 130
    changed = tmp_path / "changed"
    write(changed)
    write_record(changed, record("b", "dfr", 3, score=0.9, fit=60 * 1.0025, predict=5 * 0.9975))
    bench("baseline", "--results", changed, "-o", tmp_path / "changed.json")
    lines = zip(text.splitlines(), (tmp_path / "changed.json").read_text().splitlines(), strict=True)
    assert sum(a != b for a, b in lines) == 6, "seed, mean and spread of two scores"


def test_repeats_give_a_seed_several_values(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, ("a",), ("dfr",), turn=turn) for turn, name in enumerate("xy")]
    words = [word for folder in folders for word in ("--results", folder)]
    assert bench("baseline", *words, "-o", tmp_path / "b.json").exit_code == 0
    cell = json.loads((tmp_path / "b.json").read_text())["cells"][0]
    assert [len(values) for values in cell["scores"]["image_auroc"]["seeds"].values()] == [2] * 5
    assert len(cell["costs"]["NVIDIA H100, AMD EPYC"]["fit"]) == 10


def test_equal_results_are_ok(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new")
    result, report = check()
    assert (result.exit_code, report.answer, report.exit_code) == (0, "ok", 0)
    assert "6 of 6 cells of the baseline compared" in result.output
    assert {score.rule for verdict in report.verdicts for score in verdict.scores} == {"unchanged"}


def test_seeds_shifted_at_random_are_ok(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", turn=1)
    result, report = check()
    assert result.exit_code == 0, report.summary
    assert "paired t" in {score.rule for verdict in report.verdicts for score in verdict.scores}


def test_a_loss_is_found_in_its_method(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", lost=0.012, turn=1)
    result, report = check()
    assert (result.exit_code, report.answer) == (1, "score worse")
    assert "mpdd/*/ulsad/strict" in answers(report)
    assert not any("dfr" in name for name in answers(report))
    assert "image AUROC 95.00 → 93.80 (-1.20 points; paired t over seeds and categories" in result.output


def test_a_small_loss_is_none_unless_asked_for(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", lost=0.004, spread=0.9)
    assert check()[0].exit_code == 0
    assert check("--min-effect", "0.2")[0].exit_code == 1


def test_what_is_equal_in_all_seeds_is_not_certain(old: Path, tmp_path: Path, check: Check) -> None:
    """AUROCs of few images come in steps: seeds may fall by the same one by chance."""
    write(tmp_path / "new", lost=0.025)
    result, report = check()
    assert (result.exit_code, report.answer) == (0, "ok")
    write(tmp_path / "new", lost=0.035, finished="2026-02-01T00:00:00")
    result, report = check()
    assert (result.exit_code, report.answer) == (1, "score worse")
    assert "all seeds alike: margin 3" in result.output


def test_one_training_that_went_wrong_is_no_regression(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", turn=1)
    write_record(tmp_path / "new", record("a", "ulsad", 2, score=0.85))
    assert check()[0].exit_code == 0


def test_a_method_without_spread_has_a_tolerance(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", spread=0.0)
    bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "baseline.json")
    write(tmp_path / "new", spread=0.0, lost=0.0008)
    assert check()[0].exit_code == 0
    write(tmp_path / "new", spread=0.0, lost=0.002)
    result, report = check()
    assert result.exit_code == 1
    assert sum(answer == "score worse" for answer in answers(report).values()) == 3
    assert "no spread: tolerance 0.1" in result.output


def test_one_seed_has_a_wide_margin_and_the_baseline_says_so(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", ("a", "b"), seeds=1)
    made = bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "baseline.json")
    assert "4 of them have one seed" in made.output
    write(tmp_path / "new", ("a", "b"), seeds=1, lost=0.02)
    assert check()[0].exit_code == 0
    write(tmp_path / "new", ("a", "b"), seeds=1, lost=0.04)
    assert check()[0].exit_code == 1


def test_a_slow_down_is_found(old: Path, tmp_path: Path, check: Check) -> None:
    methods = ("ulsad", "dfr", "padim")
    bench("baseline", "--results", write(tmp_path / "old", methods=methods), "-o", old)
    write(tmp_path / "new", methods=methods, slow=1.1)
    result, report = check()
    assert (result.exit_code, report.answer) == (1, "speed or memory worse")
    assert answers(report) == {f"mpdd/{c}/ulsad/strict": "speed or memory worse" for c in "abc"}
    assert "+10 %; Mann–Whitney, at least 5 %" in result.output
    assert check("--min-slow-down", "12")[0].exit_code == 0


def test_a_slow_down_of_everything_is_said_once(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", slow=1.1, hit=("ulsad", "dfr"))
    result, report = check()
    assert (result.exit_code, report.answer) == (1, "speed or memory worse")
    assert answers(report) == {"all cells on NVIDIA H100, AMD EPYC": "speed or memory worse"}


def test_few_runs_have_a_margin(tmp_path: Path, check: Check) -> None:
    write(tmp_path / "old", seeds=1)
    bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "baseline.json")
    write(tmp_path / "new", seeds=1, slow=1.2)
    assert check()[0].exit_code == 0
    write(tmp_path / "new", seeds=1, slow=1.3)
    assert check()[0].exit_code == 1


@pytest.mark.parametrize(
    ("memory", "code"),
    [
        ({"host": 2**31, "device": int(1.05 * 2**32)}, 0),
        ({"host": 2**31, "device": int(1.2 * 2**32)}, 1),
        ({"host": int(1.2 * 2**31), "device": 2**32}, 0),
        ({"host": 2**32, "device": 2**32}, 1),
    ],
)
def test_memory_has_a_margin(old: Path, tmp_path: Path, check: Check, memory: Any, code: int) -> None:
    write(tmp_path / "new", memory=memory)
    result, report = check()
    assert result.exit_code == code
    assert report.answer == ("speed or memory worse" if code else "ok")


def test_speed_on_another_gpu_is_not_compared_and_said(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", slow=3.0, environment=GPU | {"gpu": "NVIDIA A100"})
    result, report = check()
    assert (result.exit_code, report.answer) == (0, "ok")
    assert (
        "speed not compared: NVIDIA A100, AMD EPYC now, NVIDIA H100, AMD EPYC in the baseline"
        in result.output.replace("\n", " ")
    )
    result, report = check("--require-speed")
    assert (result.exit_code, report.answer) == (2, "not comparable")


def test_missing_cells_and_seeds_are_never_green(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", ("a", "b"))
    result, report = check()
    assert (result.exit_code, report.answer) == (2, "not comparable")
    assert answers(report) == {f"mpdd/c/{m}/strict": "nothing measured" for m in ("dfr", "ulsad")}
    write(tmp_path / "new", ("c",), seeds=3)
    result, report = check()
    assert (result.exit_code, report.answer) == (2, "not comparable")
    assert "image AUROC was not measured for seed 3, 4" in result.output
    assert check("--bisect")[0].exit_code == 125


def test_what_is_missing_does_not_hide_a_loss(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", ("a", "b"), lost=0.03, spread=0.9)
    result, report = check("--bisect")
    assert (result.exit_code, report.answer) == (1, "score worse")


def test_an_empty_folder_and_failed_runs_are_nothing_measured(
    old: Path, tmp_path: Path, check: Check
) -> None:
    (tmp_path / "new").mkdir()
    result, report = check()
    assert (result.exit_code, report.answer) == (2, "nothing measured")
    write(tmp_path / "new", failure="CUDA error: too hot\nand more")
    result, report = check()
    assert (result.exit_code, report.answer) == (2, "nothing measured")
    assert "seed 0 failed: CUDA error: too hot" in result.output
    assert check("--bisect")[0].exit_code == 125


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"spec": {"image_size": 128}}, "protocol fingerprint: image_size 256 → 128"),
        ({"metrics_version": 3}, "protocol fingerprint: metrics_version 2 → 3"),
        (
            {"identity": {"weights": {"resnet": "2" * 64}}},
            "weights of resnet 1111111111111111 → 2222222222222222",
        ),
        ({"identity": {"data": "d2"}}, "data d1 → d2"),
    ],
)
def test_other_conditions_are_not_comparable(
    old: Path, tmp_path: Path, check: Check, given: Any, said: str
) -> None:
    write(tmp_path / "new", **given)
    result, report = check()
    assert (result.exit_code, report.answer) == (2, "not comparable")
    assert said in result.output
    write(tmp_path / "new", finished="2026-02-01T00:00:00")
    assert check()[0].exit_code == 0, "newer runs beside them are comparable again"


def test_of_several_records_of_a_run_the_newest_counts(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", lost=0.05, identity={"method_version": 2}, finished="2026-02-01T00:00:00")
    write(tmp_path / "new")
    assert check()[0].exit_code == 1
    write(tmp_path / "new", identity={"method_version": 3}, finished="2026-03-01T00:00:00")
    assert check()[0].exit_code == 0


def test_a_score_that_is_no_longer_defined_is_missing(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new")
    write_record(tmp_path / "new", record("a", "dfr", 1, score=None))
    result, report = check()
    assert (result.exit_code, answers(report)) == (2, {"mpdd/a/dfr/strict": "not comparable"})
    assert "seed 1 ok: no score is defined" in result.output


def test_new_cells_and_damaged_records_are_said(old: Path, tmp_path: Path, check: Check) -> None:
    write(tmp_path / "new", ("a", "b", "c", "d"))
    broken = next((tmp_path / "new" / "mpdd" / "a" / "dfr").glob("*.json"))
    broken.write_text("{")
    result, report = check()
    assert result.exit_code == 2
    assert "damaged record left out" in result.output
    assert "2 cells of the results are not in the baseline" in result.output
    assert list(answers(report)) == ["mpdd/a/dfr/strict"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no baseline: it is not JSON"),
        ("[]", "is no baseline"),
        ("\0\xff", "is no baseline"),
        ("[" * 100_000, "is no baseline"),
        ('{"schema_version": 2}', "has schema version 2, this ulsad-bench reads up to 1"),
        ('{"version": "", "fingerprints": {}, "environments": {}, "cells": []}', "is no baseline: cells"),
    ],
)
def test_a_damaged_baseline_is_a_sentence(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(content, encoding="latin-1")
    write(tmp_path / "new", ("a",), ("dfr",))
    result = bench("check", "--baseline", file, "--results", tmp_path / "new")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_scores_of_a_baseline_are_numbers(old: Path, tmp_path: Path) -> None:
    write(tmp_path / "new")
    for other in ("NaN", "1e999", '"x"', "null", "{}"):
        (tmp_path / "bad.json").write_text(old.read_text().replace("[95.25]", f"[{other}]", 1))
        result = bench("check", "--baseline", tmp_path / "bad.json", "--results", tmp_path / "new")
        assert (result.exit_code, "is no baseline" in result.stderr) == (2, True), other


def test_mistakes_in_the_call_are_sentences(old: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new")
    for words, said in (
        (("--baseline", tmp_path / "no.json", "--results", new), "make one by `bench baseline`"),
        (("--baseline", old, "--results", tmp_path / "no"), "There is no results folder"),
        (("--baseline", old, "--results", new, "--explain", "zzz"), "has no cell 'zzz'"),
        (("--baseline", old, "--results", new, "--explain", "dfr"), "names 3 cells"),
        (("--baseline", old, "--results", new, "--junit", new / "mpdd" / "a"), "directory"),
        (("--baseline", old, "--results", new, "--markdown", new), "cannot be written"),
    ):
        result = bench("check", *words)
        assert result.exit_code == 2
        assert said in result.stderr
        if "directory" not in said:
            assert bench("check", *words, "--bisect").exit_code == 125


def test_a_baseline_needs_scores_and_runs_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    words = ("baseline", "--results", tmp_path / "old", "-o", tmp_path / "b.json")
    result = bench(*words)
    assert (result.exit_code, "nothing to make a baseline of" in result.stderr) == (2, True)
    write(tmp_path / "old", ("a",), ("dfr",))
    write_record(tmp_path / "old", record("b", "dfr", failure="boom"))
    result = bench(*words)
    assert result.exit_code == 0
    assert "Left out, without scores: mpdd/b/dfr/strict (seed 0 failed: boom)" in result.stderr
    newer = {"identity": {"config": {"epochs": 61}}, "finished": "2026-02-01T00:00:00"}
    write_record(tmp_path / "old", record("a", "dfr", 1, **newer))
    result = bench(*words)
    assert result.exit_code == 2
    assert "mpdd/a/dfr/strict do not belong together (default or setting epochs" in result.stderr


def test_settings_and_setups_are_cells_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "old", ("a",), ("dfr",))
    for spec in (
        {"image_size": 128},
        {"params": {"lr": 0.1}},
        {"params": {f"p{i}": "x" * 9 for i in range(9)}},
    ):
        write(folder, ("a",), ("dfr",), spec=spec)
    bench("baseline", "--results", folder, "-o", tmp_path / "b.json")
    found = [
        (c["method"], c.get("setup", "")) for c in json.loads((tmp_path / "b.json").read_text())["cells"]
    ]
    assert found[0] == ("dfr", "")
    assert found[1] == ("dfr", "128 px")
    assert found[2][0].startswith("dfr[9 settings, ")
    assert found[3] == ("dfr[lr=0.1]", "")


def test_memory_of_interrupted_trainings_is_left_out(tmp_path: Path) -> None:
    whole, interrupted = record(seed=0), record(seed=1).model_copy(update={"resumed": [3]})
    for one in (whole, interrupted):
        write_record(tmp_path / "old", one)
    bench("baseline", "--results", tmp_path / "old", "-o", tmp_path / "b.json")
    costs = json.loads((tmp_path / "b.json").read_text())["cells"][0]["costs"]["NVIDIA H100, AMD EPYC"]
    assert (len(costs["memory_device"]), len(costs["fit"])) == (1, 2)


@pytest.mark.parametrize(
    ("told", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun 6 22:20:39 UTC 2023",
            "535.54.03",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.90.07  Release Build", "550.90.07"),
        ("something else", ""),
    ],
)
def test_the_drivers_version_is_read(tmp_path: Path, told: str, version: str) -> None:
    from harness.profiling.environment import _driver

    (tmp_path / "version").write_text(told)
    assert _driver(tmp_path / "version") == version
    assert _driver(tmp_path / "none") == ""


def test_explain_names_seeds_differences_and_the_likely_reason(old: Path, tmp_path: Path) -> None:
    place = ("check", "--baseline", old, "--results", tmp_path / "new", "--explain")
    other = GPU | {"driver": "560.2", "packages": {"torch": "2.6.0", "anomalib": "2.7.0"}}
    write(tmp_path / "new", lost=0.04, environment=other)
    result = bench(*place, "mpdd/a/ulsad")
    assert result.exit_code == 1
    assert "mpdd/a/ulsad/strict: score worse" in result.output
    assert "   3    95.250    91.250    -4.000" in result.output
    assert "all seeds have changed alike" in result.output
    assert "driver 550.1 → 560.2" in result.output
    assert "Likely reason: another torch (packages.torch 2.5.0 → 2.6.0)" in result.output
    assert "Likely reason: nothing is worse" in bench(*place, "mpdd/a/dfr").output
    write(tmp_path / "new", lost=0.04, identity={"config": {"epochs": 5}}, finished="2026-02-01T00:00:00")
    assert "the method itself changed (default or setting epochs 60 → 5)" in bench(*place, "a/ulsad").output
    write(tmp_path / "data", identity={"data": "d2"})
    other_data = bench("check", "--baseline", old, "--results", tmp_path / "data", "--explain", "a/ulsad")
    assert "measured under different conditions (data d1 → d2)" in other_data.output
    write(tmp_path / "bad", failure="boom")
    failed = bench("check", "--baseline", old, "--results", tmp_path / "bad", "--explain", "a/ulsad")
    assert "Likely reason: its runs failed, first: seed 0 failed: boom" in failed.output
