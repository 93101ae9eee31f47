"""A grid of post-processing from kept parts: equal to runs of their own, to the bit, with nothing trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.common.errors import UserError
from harness.common.places import Places
from harness.execution.pipeline import Session, run_plan
from harness.execution.postprocessing import record_from_parts
from harness.execution.run import execute
from harness.planning.plan import Options, Plan, make_plan
from harness.planning.task import RunTask
from harness.results.maps import load_parts
from harness.results.store import read_record, write_record
from harness.spec.record import RunRecord
from harness.spec.suite import Suite
from methods.ulsad import ULSAD
from tests.harness.execution import test_run

place = test_run.place
TINY = {"channels": 8, "epochs": 2, "backbone": "tf_efficientnet_lite0", "q_samples": 1000}


def planned(place: Path, results: str, **fields: Any) -> Plan:
    given: dict[str, Any] = {"title": "T", "datasets": [str(place / "own.toml")], "categories": ["a"]}
    given |= {"methods": ["ulsad"], "image_size": 64, "set": {"ulsad": TINY}, "keep": ["parts"]}
    suite = Suite.model_validate(given | fields)
    options = Options(
        devices=("cpu",),
        places=Places(place / "cache", place / "data", place / results),
        backbone_weights="none",
        keep=frozenset(suite.keep),
    )
    return make_plan(suite, options)


def run(task: RunTask) -> RunRecord:
    record = execute(task, lambda _: None)
    assert record.outcome == "ok", record.failure
    write_record(task.places.results, record)
    return record


def test_a_grid_equals_runs_of_their_own_and_trains_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"ulsad": {"alpha": [0.5, 0.9], "beta": [0.95, 1.0], "blur": [2.0]}}
    base, *points = planned(place, "grid", grid=grid).tasks
    assert len(points) == 4
    assert all(point.made_from == base for point in points)
    names = [f"ulsad[alpha={a:g},beta={b:g},blur=2]" for a in (0.5, 0.9) for b in (0.95, 1.0)]
    assert [point.spec.method for point in points] == names

    trained = planned(place, "trained", methods=names, keep=[]).tasks
    assert [task.key for task in trained] == [point.key for point in points], "the same runs"
    wanted = [run(task) for task in trained]
    run(base)

    def never(*_: object) -> None:
        raise AssertionError("nothing is to be trained or predicted")

    for what in ("fit", "predict", "features"):
        monkeypatch.setattr(ULSAD, what, never)
    torch.manual_seed(5)
    for point, own in zip(points, wanted, strict=True):
        made = record_from_parts(point)
        assert (made.outcome, made.made_from, made.timings) == ("ok", base.key, None), made.failure
        assert made.metrics == own.metrics
        assert (made.spec, made.identity, made.fingerprint) == (own.spec, own.identity, own.fingerprint)
        assert made.counts == own.counts
        assert made.operating == own.operating
        assert made.operating is not None
        assert made.operating.thresholds
    assert len({str(record.metrics) for record in wanted}) > 1, "it matters which quantiles"


def test_a_grid_of_contaminated_runs_is_scored_on_what_is_left(place: Path) -> None:
    grid = {"ulsad": {"alpha": [0.6]}}
    base, point = planned(place, "grid", grid=grid, contamination=[0.2]).tasks
    assert run(base).counts["moved"] == 2
    (own,) = planned(place, "trained", methods=["ulsad[alpha=0.6]"], contamination=[0.2]).tasks
    assert record_from_parts(point).metrics == run(own).metrics


def test_kept_parts_are_the_maps_of_the_branches_and_of_attention(place: Path) -> None:
    (base,) = planned(place, "results").tasks
    run(base)
    path = base.record_path.with_suffix(".parts.safetensors")
    parts = load_parts(path)
    for count, found in ((8, parts.raw), (1, parts.validation)):
        assert {name: array.shape for name, array in found.items()} == dict.fromkeys(
            ("local", "global", "attention", "attention_global"), (count, 8, 8)
        )
    # Every query spends all of its attention: of 64 positions each gets a 64th on average.
    for name in ("attention", "attention_global"):
        assert parts.raw[name].sum(axis=(1, 2)) == pytest.approx([1.0] * 8, abs=1e-5)
    assert parts.statistics["validation"].shape == (2, 1, 8, 8)


def test_runs_whose_parts_are_gone_are_done_again_and_damage_is_recorded(place: Path) -> None:
    grid = {"ulsad": {"alpha": [0.6]}}
    base, point = planned(place, "grid", grid=grid).tasks
    run(base)
    assert planned(place, "grid", grid=grid).done == {base.key}
    path = base.record_path.with_suffix(".parts.safetensors")
    path.write_bytes(b"nothing")
    made = record_from_parts(point)
    assert made.outcome == "failed"
    assert made.failure is not None
    assert "its kept parts are damaged" in made.failure.message
    path.unlink()
    assert planned(place, "grid", grid=grid).done == frozenset()
    assert record_from_parts(replace(point, made_from=replace(base, key="0"))).outcome == "failed"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grid": {"ulsad": {"lr": [0.1]}}}, "varies ulsad.lr, which needs a training"),
        ({"grid": {"ulsad": {"alpha": [0.5]}}, "protocols": ["paper"]}, "protocol 'paper' selects another"),
        ({"grid": {"ulsad": {"alpha": [0.5]}}, "keep": []}, 'keep = ."parts".'),
        ({"grid": {"ulsad": {"alpha": [0.999]}}}, "must be below beta"),
    ],
)
def test_a_grid_that_cannot_be_made_is_refused(place: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        planned(place, "results", **fields)


def test_a_suite_with_a_grid_leaves_every_record(place: Path) -> None:
    from rich.console import Console

    plan = planned(place, "results", grid={"ulsad": {"alpha": [0.5, 0.6]}})
    records = run_plan(plan, Session(place / "results", ("cpu",), Console(quiet=True), quiet=True))
    assert [record.outcome for record in records] == ["ok"] * 3
    kept = [read_record(task.record_path) for task in plan.tasks]
    assert [r.made_from for r in kept if isinstance(r, RunRecord)] == ["", *[plan.tasks[0].key] * 2]
    assert planned(place, "results", grid={"ulsad": {"alpha": [0.5, 0.6]}}).todo == ()
