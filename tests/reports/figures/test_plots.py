"""Figures for papers: which are drawn, that they are vectors, the same twice, and what an odd name does."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.store import read_records
from reports.figures.plots import KINDS, write_figures
from reports.figures.style import shortened
from reports.rankings.leaderboard import build
from tests.reports.page import test_page

pytest.importorskip("matplotlib")
CATEGORIES, run, report = test_page.CATEGORIES, test_page.run, test_page.report


def test_every_figure_that_the_records_allow_is_drawn_and_the_same_twice(
    report: Path, tmp_path: Path
) -> None:
    results = report.parent.parent / "results"
    board = build(read_records(results).records)
    drawn = write_figures(board, results, tmp_path / "a")
    names = {path.stem for path in (tmp_path / "a").iterdir()}
    assert set(drawn) == names
    assert len(drawn) == len(list((tmp_path / "a").iterdir())) / len(KINDS)
    paper = next(r for r in board.rankings if r.fingerprint.protocol == "paper").name
    strict = next(r for r in board.rankings if r.fingerprint.protocol == "strict").name
    assert {f"made_up-{paper}-{c}-epochs" for c in CATEGORIES} <= names
    assert {"selection-gap", f"made_up-{paper}-speed", f"figure-9-made_up-{strict}-bolt"} <= names
    assert {f"made_up-{paper}-ranks-image_auroc", f"made_up-{paper}-ranks-aupro"} <= names
    write_figures(board, results, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        content = path.read_bytes()
        assert content == (tmp_path / "b" / path.name).read_bytes(), path.name
        assert content.startswith({".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}[path.suffix])
    text = (tmp_path / "a" / f"made_up-{paper}-speed.svg").read_text()
    assert "<image" not in text, "vectors"


def test_odd_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    made = [run(method, "bolt", 0) for method in ("alpha", "gamma")]
    odd = [
        r.model_copy(update={"spec": r.spec.model_copy(update={"dataset": "$x_{1}$ \\frac <b>"})})
        for r in made
    ]
    for name in write_figures(build(odd), tmp_path, tmp_path / "figures"):
        assert (tmp_path / "figures" / f"{name}.svg").is_file()


def test_variants_of_a_method_keep_different_names_in_a_figure() -> None:
    rest = ("loss_lg=false", "loss_lg=false,loss_pg=direct", "loss_pg=direct")
    names = [shortened(f"ulsad[lambda_g=0,lambda_l=0,{text}]") for text in rest]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 30
    assert shortened("ulsad") == "ulsad"
