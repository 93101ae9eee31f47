"""Published beside measured: the difference, and reasons that come from the records."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec
from reports.published.compare import compare_published
from reports.published.numbers import paper
from reports.rankings.leaderboard import build
from reports.write import write
from tests.harness.places import hexadecimal


def record(seed: int, value: float, backbone: str = "wide_resnet50_2", **change: Any) -> RunRecord:
    spec = RunSpec(
        dataset="mvtec", category="bottle", method=change.pop("method", "cflow"), seed=seed, **change
    )
    identity = Identity(
        method_version=1, config={"backbone": backbone}, weights={backbone: "1"}, data="d", score_rule="max"
    )
    return RunRecord(
        key=hexadecimal(f"{seed}{spec.method}"),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        metrics={"all": {"image_auroc": value}},
        categories=["bottle", "cable"],
    )


def test_the_papers_own_setup_differs_in_the_metrics_only() -> None:
    (pair,) = compare_published(build([record(s, 0.97, protocol="paper") for s in range(5)]), paper())
    assert (pair.published.printed, pair.tables, pair.difference) == ("100.0", ("7",), pytest.approx(-3))
    assert pair.reasons == ("metrics of this package, version 1",)


def test_reasons_say_what_differs() -> None:
    (pair,) = compare_published(build([record(0, 0.9, "resnet18", image_size=128, limit_train=9)]), paper())
    text = "; ".join(pair.reasons)
    for words in (
        "protocol strict",
        "resize antialiased",
        "128 pixels",
        "1 of 5 seeds",
        "resnet18",
        "at most 9",
    ):
        assert words in text


def test_the_report_shows_pairs_only_where_there_are_some(tmp_path: Path) -> None:
    write_record(tmp_path / "results", record(0, 0.9))
    write(tmp_path / "results", tmp_path / "report")
    (row,) = csv.DictReader((tmp_path / "report" / "published.csv").open())
    assert (row["published"], float(row["measured"]), float(row["difference"])) == ("100.0", 90.0, -10.0)
    html = (tmp_path / "report" / "index.html").read_text()
    assert "Published and measured" in html
    assert "14 of 45 pooled" in html
    assert "AUPROs are of another definition" in html
    write_record(tmp_path / "other", record(0, 0.9, method="mine"))
    write(tmp_path / "other", tmp_path / "report")
    assert not (tmp_path / "report" / "published.csv").exists()
    assert "Published" not in (tmp_path / "report" / "index.html").read_text()
