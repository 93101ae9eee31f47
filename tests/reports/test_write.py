"""The tidy table against hand-computed numbers; what is never ranked together; escaping; LaTeX."""

from __future__ import annotations

import csv
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import Failure, RunRecord, Timings
from harness.spec.run import Identity, RunSpec
from reports.page.page import page
from reports.page.verdict import costs_of, verdicts
from reports.rankings.leaderboard import build, selection_gaps
from reports.rankings.ranking import Cell, ranks
from reports.rankings.tidy_table import COLUMNS, tidy
from reports.tables.leaderboard_latex import tables
from reports.write import write
from tests.harness.places import hexadecimal


def record(category: str, seed: int, value: float | None, method: str = "m", **change: Any) -> RunRecord:
    spec = RunSpec(
        dataset="d", category=category, method=method, seed=seed, protocol=change.get("protocol", "strict")
    )
    identity = Identity(
        method_version=1,
        config=change.get("config", {}),
        weights=change.get("weights", {"b": "1" * 64}),
        data=change.get("data", f"data-{category}"),
        score_rule=change.get("score_rule", "max of the map"),
    )
    scores: dict[str, float | None] = dict.fromkeys(("image_auroc", "pixel_auroc", "aupro"), value)
    outcome = change.get("outcome", "ok")
    return RunRecord(
        key=change.get("key", hexadecimal(f"{category}{seed}{method}{change}")),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, change.get("metrics_version", 1)),
        outcome=outcome,
        failure=None if outcome == "ok" else Failure(message="it <broke>", traceback="<script>"),
        metrics={"all": scores} if outcome == "ok" else {},
        metrics_last={"all": {"image_auroc": change["last"]}} if "last" in change else None,
        categories=["x", "y"],
        timings=Timings(load=0, fit=1, predict=1, evaluate=0, images_per_second=5),
        finished=change.get("finished", "2026-01-01T00:00:00"),
        citation="@article{m,\n}",
        remarks=change.get("remarks", []),
        suite=change.get("suite", ""),
    )


FULL = [record("x", 0, 0.8), record("x", 1, 0.9), record("y", 0, 0.6), record("y", 1, 0.4)]


def only(records: list[RunRecord]) -> Any:
    (ranking,) = build(records).rankings
    return ranking


def test_means_and_deviations_are_those_computed_by_hand() -> None:
    table = tidy(build(FULL).rankings)
    assert tuple(table.columns) == COLUMNS
    rows = table[table.metric == "image_auroc"].set_index("category")
    assert rows.loc["x", "mean"] == pytest.approx(85)
    assert rows.loc["x", "std"] == pytest.approx(7.0710678)
    # Per seed: (80 + 60) / 2 = 70 and (90 + 40) / 2 = 65.
    assert rows.loc["mean", "mean"] == pytest.approx(67.5)
    assert rows.loc["mean", "std"] == pytest.approx(3.5355339)
    assert list(rows["complete"]) == ["2 of 2", "2 of 2", "4 of 4"]


def test_a_kinds_mean_runs_over_the_categories_that_have_it(tmp_path: Path) -> None:
    """As in LOCO, where every category has both kinds, and as in a dataset where one lacks a kind."""

    def of(category: str, **splits: float) -> RunRecord:
        metrics = {name: {"image_auroc": value, "aupro": value} for name, value in splits.items()}
        kinds = {"structural": ["x", "y"], "logical": ["y"]}
        return record(category, 0, 0.5).model_copy(update={"metrics": metrics, "split_categories": kinds})

    both = [of("x", all=0.6, structural=0.6), of("y", all=0.7, structural=0.8, logical=0.4)]
    for item in both:
        write_record(tmp_path / "results", item)
    write(tmp_path / "results", tmp_path / "report")
    rows = list(csv.DictReader((tmp_path / "report" / "leaderboard.csv").open()))
    means = {r["split"]: r for r in rows if r["category"] == "mean" and r["metric"] == "image_auroc"}
    found = {split: (float(r["mean"]), r["complete"]) for split, r in means.items()}
    assert found == {
        "all": (pytest.approx(65), "2 of 2"),
        "structural": (pytest.approx(70), "2 of 2"),
        "logical": (pytest.approx(40), "1 of 1"),
    }


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (None, "not run"),
        (record("y", 1, None), "undefined"),
        (record("y", 1, 0.4, outcome="out_of_memory"), "out of memory"),
    ],
)
def test_a_mean_needs_every_category_and_seed(last: RunRecord | None, reason: str) -> None:
    ranking = only(FULL[:3] + ([last] if last else []))
    cell = ranking.cell("m", "mean", "all", "image_auroc")
    assert (cell.mean, cell.std, cell.reason) == (None, None, "3 of 4")
    assert ranking.cell("m", "y", "all", "image_auroc").have == 1
    assert only([FULL[0], *([last] if last else [record("y", 1, None)])]).categories == ("x", "y")
    alone = only([*FULL[:2], *([last] if last else [])]).cell("m", "y", "all", "image_auroc")
    assert alone.mean is None
    assert alone.reason in {reason, "not run"}


def test_what_differs_is_never_ranked_together() -> None:
    assert len(build([*FULL, record("x", 0, 0.7, protocol="paper")]).rankings) == 2
    assert len(build([*FULL, record("x", 0, 0.7, "n", metrics_version=2)]).rankings) == 2
    other = build([*FULL, record("x", 0, 0.7, "n", weights={"b": "2" * 64})])
    assert len(other.rankings) == 2
    assert any("ranked apart" in note for note in other.notes)
    assert len(build([*FULL, record("x", 0, 0.7, "n", weights={"c": "2" * 64})]).rankings) == 1
    changed = build([*FULL, record("x", 0, 0.7, "n", data="other", finished="2026-02-01T00:00:00")])
    (ranking,) = changed.rankings
    assert ranking.cell("m", "x", "all", "aupro").mean is None
    assert ranking.cell("n", "x", "all", "aupro").mean == pytest.approx(70)
    assert any("2 records are left out" in note for note in changed.notes)


def test_the_newest_record_of_a_run_counts() -> None:
    board = build([*FULL, record("x", 0, 0.1, key="new", finished="2026-02-01T00:00:00")])
    (ranking,) = board.rankings
    assert ranking.cell("m", "x", "all", "aupro").mean == pytest.approx(50)
    assert any("superseded" in note for note in board.notes)


def test_settings_of_one_name_are_told_apart() -> None:
    ranking = only([record("x", 0, 0.5, config={"e": 1}), record("x", 1, 0.5, config={"e": 2})])
    assert ranking.methods == ("m (e=1)", "m (e=2)")


def test_selection_gap_is_selected_minus_last() -> None:
    board = build(
        [record("x", 0, 0.9, protocol="paper", last=0.7), record("y", 0, 0.8, protocol="paper", last=0.8)]
    )
    assert selection_gaps(board) == [("d", "m", pytest.approx(85), pytest.approx(75), "2 of 2")]
    assert "selects on test data" in page(board)


def test_only_complete_methods_are_the_fastest_and_equal_ones_share_it() -> None:
    def answers(method_runs: list[RunRecord]) -> dict[str, tuple[list[str], str]]:
        ranking = only(method_runs)
        found = verdicts(ranking, costs_of(ranking))
        return {answer["question"]: (answer["methods"], answer["sure"]) for answer in found}

    twin = [record(r.spec.category, r.spec.seed, 0.5, "twin") for r in FULL]
    assert answers([*FULL, *twin])["Speed"] == (["m", "twin"], "median of its runs, one machine")
    quick = [
        r.model_copy(update={"timings": r.timings.model_copy(update={"images_per_second": 99})}) for r in twin
    ]
    assert answers([*FULL, *quick])["Speed"][0] == ["twin"]
    told = "median of its runs, one machine; 1 incomplete not counted"
    assert answers([*FULL, *quick[1:]])["Speed"] == (["m"], told)
    assert answers([*FULL[1:], *quick[1:]])["Speed"][0] == ["twin"], (
        "no method is complete: all there is to say"
    )


def test_ranks_tie_as_printed_and_skip_the_incomplete() -> None:
    cells = [Cell(90.04, None, 1, 1), Cell(90.01, None, 1, 1), Cell(80, None, 1, 1), Cell(99, None, 1, 2)]
    assert ranks(cells) == [1, 1, 2, 0]


def test_the_gap_has_an_interval_where_every_run_has_both_epochs() -> None:
    paper = [record(c, 0, v, protocol="paper", last=0.7) for c, v in (("x", 0.9), ("y", 0.8))]
    # Gaps 20 and 10: 15 ± 12.706 · 7.071 / √2. The strict ranking of the same name changes nothing.
    text = page(build([*FULL, *paper]))
    assert "<td>+15.0</td><td>-48.5 to +78.5</td>" in text
    # A mean over the runs that happen to be there is none.
    assert '<td>–</td><td>–</td><td class="missing">1 of 2</td><td>–</td>' in page(build(paper[:1]))


def test_what_ties_with_the_best_is_bold_and_without_an_interval_that_is_said() -> None:
    near = [record(r.spec.category, r.spec.seed, 0.6, "near") for r in FULL]
    board = build([*FULL, *near])
    text = page(board)
    assert "rank 1–2" in text
    assert 'class="best">60.0' in text
    assert "what is statistically tied with the best at 95 %" in text
    detection = next(text for name, text in tables(board).items() if name.endswith("detection.tex"))
    assert r"mean & \textbf{67.5}" in detection
    assert r"& \textbf{60.0}" in detection.split("midrule")[-1]
    assert r"not distinguishable from the best at 95 \%" in detection
    single = [record("x", 0, v, m) for m, v in (("a", 0.9), ("b", 0.8))]
    single = [r.model_copy(update={"categories": ["x"]}) for r in single]
    board = build(single)
    assert "One category, one seed: no interval" in page(board)
    assert "not distinguishable" not in "".join(tables(board).values())


def test_average_ranks_are_shown_from_three_methods_and_categories() -> None:
    names = ["x", "y", "z"]
    records = [
        record(c, 0, 0.9 - 0.1 * m, f"m{m}").model_copy(update={"categories": names})
        for c in names
        for m in range(3)
    ]
    text = page(build(records))
    assert "How sure?" in text
    assert '<svg role="img"' in text
    assert '<th scope="row">m0</th><td>1.00</td><td>–</td><td>100</td><td>100</td>' in text
    assert "How sure?" not in page(build(FULL))


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(v) for k, v in attrs if k == "src" or (k == "href" and tag != "a")]


def test_the_page_escapes_names_and_loads_nothing() -> None:
    odd = "a_b&<script>%#"
    parser = Links()
    text = page(build([record("x", 0, 0.5, odd), record("y", 0, 0.5, odd, outcome="failed")]))
    parser.feed(text)
    assert parser.tags.count("script") == 2  # its own: the data, and what opens them
    assert parser.loads == ["data:,"]  # an empty icon, so that a server is not asked for one
    assert "a_b&amp;&lt;script&gt;%#" in text
    assert "it &lt;broke&gt;" in text


def test_methods_with_rules_of_their_own_for_the_score_are_ranked_together() -> None:
    other = record("x", 0, 0.7, method="n", score_rule="mean of the ten largest", weights={})
    assert only([record("x", 0, 0.8), other]).methods == ("m", "n")


def test_the_page_says_what_must_be_known_about_a_row() -> None:
    spoken = record("x", 0, 0.8, remarks=["The teacher is a stand-in."], suite="Short trainings.")
    spoken = spoken.model_copy(update={"spec": spoken.spec.model_copy(update={"params": {"epochs": 3}})})
    html = page(build([spoken]))
    for words in ("The teacher is a stand-in.", "epochs = 3", "Short trainings."):
        assert words in html


def test_latex_escapes_marks_the_best_and_compiles(tmp_path: Path) -> None:
    worse = [record(r.spec.category, r.spec.seed, 0.3, "a_b&<x>%#^~\\{}") for r in FULL[:3]]
    files = tables(build([*FULL, *worse]))
    detection = next(text for name, text in files.items() if name.endswith("detection.tex"))
    assert r"\textbf{67.5}" in detection
    assert (
        r"a\_b\&\textless{}x\textgreater{}\%\#\textasciicircum{}\textasciitilde{}\textbackslash{}\{\}"
        in detection
    )
    assert r"--\textsuperscript{b}" in detection
    assert r"\textsuperscript{a}\,1 of 2 runs, which give 30.0; \textsuperscript{b}\,3 of 4 runs" in detection
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_a_report_replaces_its_own_tables_only(tmp_path: Path) -> None:
    for one in FULL:
        write_record(tmp_path / "results", one)
    out = tmp_path / "report"
    write(tmp_path / "results", out)
    stale, foreign = out / "tables" / "old.tex", out / "tables" / "mine.tex"
    stale.write_text((out / "tables" / "all.tex").read_text())
    foreign.write_text("mine")
    write(tmp_path / "results", out)
    assert not stale.exists()
    assert foreign.exists()
    assert (out / "leaderboard.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
