"""The array of a ranking against a slow reference that loops over records; a folder of all sorts of files."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.metrics import METRICS, completed
from harness.spec.record import SCHEMA_VERSION, RunRecord
from reports.rankings.leaderboard import build
from reports.rankings.ranking import Cell, Ranking
from reports.rankings.scores import MEAN
from reports.rankings.tidy_table import tidy
from reports.write import write
from tests.harness.places import hexadecimal
from tests.reports.simulated import NOISE, Simulation

HISTORIC = Path(__file__).parents[2] / "museum" / "2026-first.json"


def value(record: RunRecord | None, split: str, metric: str) -> tuple[float | None, str]:
    if record is None:
        return None, "not run"
    if record.outcome != "ok":
        return None, record.outcome.replace("_", " ")
    found = completed(record.metrics.get(split, {})).get(metric)
    return (100 * found, "") if found is not None else (None, "undefined")


def reference(ranking: Ranking, method: str, category: str, split: str, metric: str) -> Cell:
    categories = ranking.split_categories(split) if category == MEAN else (category,)
    have, reasons, per_seed = 0, Counter[str](), []
    for seed in ranking.seeds:
        values = []
        for name in categories:
            found, reason = value(ranking.records.get((method, name, seed)), split, metric)
            if found is None:
                reasons[reason] += 1
            else:
                values.append(found)
        have += len(values)
        if values and len(values) == len(categories):
            per_seed.append(statistics.fmean(values))
    want = len(ranking.seeds) * len(categories)
    std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
    if have == want and per_seed:
        return Cell(statistics.fmean(per_seed), std, have, want)
    if category != MEAN and per_seed:
        return Cell(statistics.fmean(per_seed), std, have, want, f"{have} of {want}")
    if have:
        return Cell(None, None, have, want, f"{have} of {want}")
    return Cell(None, None, have, want, reasons.most_common(1)[0][0] if reasons else "not run")


def odd(records: list[RunRecord]) -> list[RunRecord]:
    """Records with undefined metrics, with kinds that only some categories have, and with few of a method."""
    changed = []
    for i, record in enumerate(records):
        metrics = {split: dict(scores) for split, scores in record.metrics.items()}
        if i % 7 == 0 and metrics:
            metrics["all"]["aupro"] = None
        if i % 11 == 0 and metrics:
            del metrics["all"]["pixel_ap"]
        if record.spec.category != "category_00":
            metrics.pop("logical", None)
        own = {"logical": ["category_00"], "structural": ["category_02", "category_01", "gone"]}
        if record.spec.method != "method_00" or i % 3:
            changed.append(record.model_copy(update={"metrics": metrics, "split_categories": own}))
    return changed


@pytest.mark.parametrize("change", [list, odd])
def test_cells_and_scores_are_those_of_the_slow_reference(change: Any) -> None:
    categories = ("category_00", "category_01", "category_02")
    records = change(list(Simulation(600, categories=categories).records()))
    board = build(records)
    assert len(board.rankings) > 1
    table = tidy(board.rankings)
    rows = iter(table.to_dict("records"))
    reasons = set()
    for ranking in board.rankings:
        for split in ranking.splits:
            for category in (*ranking.split_categories(split), MEAN):
                for method in ranking.methods:
                    for metric in METRICS:
                        cell = ranking.cell(method, category, split, metric)
                        slow = reference(ranking, method, category, split, metric)
                        # Exactly, but for deviations, which are rounded more than once.
                        assert replace(cell, std=None) == replace(slow, std=None)
                        assert (cell.std is None) == (slow.std is None)
                        assert cell.std is None or cell.std == pytest.approx(slow.std, rel=1e-9, abs=1e-9)
                        reasons.add(cell.reason)
                        if metric not in ranking.metrics(split):
                            continue
                        row = next(rows)
                        assert (row["method"], row["category"], row["metric"]) == (method, category, metric)
                        assert row["complete"] == f"{slow.have} of {slow.want}"
                        assert (None if math.isnan(row["mean"]) else row["mean"]) == slow.mean
                        there = [v for v in row["values"] if v is not None]
                        assert slow.mean is None or slow.mean == statistics.fmean(there)
                        assert len(row["values"]) == len(ranking.seeds)
                        lacking = sum(int(part.split()[0]) for part in row["status"].split("; ") if part)
                        assert lacking == slow.want - slow.have
            for metric in METRICS:
                names, scores = ranking.scores(split, metric)
                grids = {
                    method: [
                        [value(ranking.records.get((method, c, s)), split, metric)[0] for s in ranking.seeds]
                        for c in ranking.split_categories(split)
                    ]
                    for method in ranking.methods
                }
                whole = {m: g for m, g in grids.items() if g and all(v is not None for r in g for v in r)}
                assert (names, scores.tolist()) == (tuple(whole), list(whole.values()))
    assert next(rows, None) is None
    assert {"", "undefined", "not run"} <= reasons


def test_simulated_records_have_the_truth_that_they_were_made_with() -> None:
    made = Simulation(3000)
    (*_, last) = made.records()
    board = build(list(made.records()))
    assert last.environment["simulated"] is True
    assert sum(len(ranking.records) for ranking in board.rankings) == 3000
    distances = []
    for ranking in board.rankings:
        assert "simulated" in ranking.badges()
        for method in ranking.methods:
            for category in ranking.categories:
                cell = ranking.cell(method, category, "all", "image_auroc")
                if cell.mean is not None:
                    distances.append(cell.mean - 100 * made.truth(method, category, "all"))
                    assert abs(distances[-1]) < 100 * NOISE * 5
    assert abs(statistics.fmean(distances)) < 100 * NOISE / 5


def test_equal_values_have_no_spread_and_the_interval_is_students() -> None:
    made = Simulation(30, categories=("category_00",), protocols=("strict",))
    (first, *_) = (record for record in made.records() if record.outcome == "ok")

    def of(seed: int, score: float | None) -> RunRecord:
        update = {"metrics": {"all": {"image_auroc": score}}, "key": f"{seed:016x}"}
        return first.model_copy(update=update | {"spec": first.spec.model_copy(update={"seed": seed})})

    def row(*scores: float | None) -> Any:
        table = tidy(build([of(seed, score) for seed, score in enumerate(scores)]).rankings)
        return table[(table.metric == "image_auroc") & (table.category == "category_00")].iloc[0]

    same = row(0.1, 0.1, 0.1)
    assert (same["std"], same["low"], same["high"]) == (0, same["mean"], same["mean"])
    # t(0.975, 2) = 4.302653 times 1 / √3.
    three = row(0.91, 0.92, 0.93)
    assert (three["low"], three["high"]) == (pytest.approx(89.515862), pytest.approx(94.484138))
    assert three["values"] == pytest.approx([91, 92, 93])
    one = row(None, 0.9)
    assert math.isnan(one["low"])
    assert one["values"] == [None, pytest.approx(90)]
    assert (one["status"], one["complete"]) == ("1 undefined", "1 of 2")


def test_every_file_of_a_folder_is_in_the_table_or_in_the_notes(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "report"
    made = list(Simulation(2 * 2 * 3, seeds=3, categories=("x", "y")).records())
    template = next(record for record in made if record.outcome == "ok" and record.spec.protocol == "strict")

    def add(category: str, seed: int, score: float | None, protocol: str = "strict", **change: Any) -> Path:
        spec = template.spec.model_copy(update={"category": category, "seed": seed, "protocol": protocol})
        identity = template.identity.model_copy(update={"data": category})
        fields = {
            "key": hexadecimal(f"{category}{seed}{protocol}{len(change)}"),
            "spec": spec,
            "fingerprint": fingerprint(spec, identity, 1),
            "identity": identity,
            "metrics": {} if score is None else {"all": {"image_auroc": score}},
        }
        return write_record(results, template.model_copy(update=fields | change))

    add("x", 0, 0.8)
    add("x", 1, None, outcome="failed")
    add("x", 2, None, outcome="timeout")
    add("y", 0, 0.5, schema_version=SCHEMA_VERSION - 1)
    add("y", 1, 0.1, "paper")
    newer = add("y", 1, 0.2, schema_version=SCHEMA_VERSION + 1)
    torn = add("y", 2, 0.3)
    torn.write_text(torn.read_text()[:-40])
    strange = torn.with_name("strange.json")
    strange.write_text("[]")
    old = json.loads(HISTORIC.read_text())
    place = results / "a" / "b" / "c" / "old.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(old))

    lines = write(results, out, formats="csv,html,json,latex,markdown")
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "image_auroc"]
    found = {
        (r["protocol"], r["category"]): (r["mean"][:5], r["complete"], r["values"][:12], r["status"])
        for r in rows
        if r["dataset"] == template.spec.dataset and r["split"] == "all"
    }
    assert found == {
        ("paper", "x"): ("", "0 of 1", "", "1 not run"),
        ("paper", "y"): ("10.0", "1 of 1", "10.0", ""),
        ("paper", "mean"): ("", "1 of 2", "", "1 not run"),
        ("strict", "x"): ("80.0", "1 of 3", "80.0;;", "1 failed; 1 timeout"),
        ("strict", "y"): ("50.0", "1 of 3", "50.0;;", "2 not run"),
        ("strict", "mean"): ("", "2 of 6", "65.0;;", "2 not run; 1 failed; 1 timeout"),
    }
    assert any(row["dataset"] == old["spec"]["dataset"] for row in rows)
    notes = "\n".join(line for line in lines if isinstance(line, str))
    page, markdown = (out / "index.html").read_text(), (out / "leaderboard.md").read_text()
    for path in (newer, torn, strange):
        assert path.name in notes
        assert path.name in page
        assert path.name in markdown.replace("\\", "")
