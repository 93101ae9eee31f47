"""Tables and figures of suites from records whose numbers are known."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.main import main
from harness.common.errors import UserError
from harness.data.samples import Sample
from harness.execution.keep import ShownImages, keep_view
from harness.results.maps import KeptParts, save_parts
from harness.results.store import record_path, write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import ImageFit
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec, run_key
from methods.ulsad import ULSADConfig
from reports.figures.plots import FIGURES, chosen_figures, write_figures
from reports.rankings.leaderboard import Leaderboard, build
from reports.rankings.variants import LEAKS, changes, leaks
from reports.tables.suites import COMPONENTS, LOCAL, SHEETS, sheet

CATEGORIES = ["a", "b"]


def record(
    value: float, category: str = "a", seed: int = 0, method: str = "ulsad", **fields: Any
) -> RunRecord:
    """A run whose three scores are ``value``, ``value + 0.01`` and ``value + 0.02``."""
    own = {name: fields.pop(name) for name in [*fields] if name in ULSADConfig.model_fields}
    config = ULSADConfig.model_validate(own)
    name = method + (f"[{','.join(f'{k}={v}' for k, v in sorted(own.items()))}]" if own else "")
    spec = RunSpec(dataset="made", category=category, method=name, params=own, seed=seed, **fields)
    identity = Identity(
        method_version=2, config=config.model_dump(mode="json"), weights={}, data=category, score_rule="max"
    )
    names = ("image_auroc", "pixel_auroc", "aupro")
    return RunRecord(
        key=run_key(spec, identity),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        metrics={"all": {metric: value + 0.01 * i for i, metric in enumerate(names)}},
        categories=CATEGORIES,
        environment={"simulated": True},
    )


def both(value: float, gap: float = 0.1, seeds: Sequence[int] = (0,), **fields: Any) -> list[RunRecord]:
    return [record(value + gap * (c == "b"), c, seed, **fields) for c in CATEGORIES for seed in seeds]


def rows(name: str, board: Leaderboard) -> list[list[str]]:
    found = sheet(name, board)
    assert found is not None
    return list(csv.reader(found.csv().splitlines()))


def test_the_ten_rows_of_table_3_are_those_of_its_suite() -> None:
    from harness.planning.suites import load_suite
    from harness.registry.configuration import configure_methods

    configs = [one.config.model_dump() for one in configure_methods(load_suite("ablation-components"))]
    assert [COMPONENTS.key(config) for config in configs] == list(COMPONENTS.rows)
    configs = [one.config.model_dump() for one in configure_methods(load_suite("ablation-local"))]
    assert [LOCAL.key(config) for config in configs] == list(LOCAL.rows)


def test_table_3_has_means_table_29_categories_and_what_is_missing_is_said() -> None:
    made = [
        *both(0.6, local_only=True),
        *both(0.7, loss_lg=False, loss_pg="direct"),
        *both(0.8),
        # Another length of training is another block, of which one row is none.
        *both(0.9, epochs=2),
    ]
    head, *table = rows("table-3", build(made))
    assert head == ["numbers", "λ_l", "λ_g", "L_pl", "L_lg", "L_pg", "L_pg^d", *head[7:]]
    assert head[7:] == ["Image AUROC", "Pixel AUROC", "AUPRO"]
    assert len(table) == 10
    found = {tuple(row[1:7]): row[7:] for row in table}
    assert found[("0.5", "–", "yes", "–", "–", "–")] == ["65.0", "66.0", "67.0"]
    assert found[("0.5", "0.5", "yes", "–", "–", "yes")] == ["75.0", "76.0", "77.0"]
    assert found[("0.5", "0.5", "yes", "yes", "yes", "–")] == ["85.0", "86.0", "87.0"]
    assert found[("0", "0", "yes", "yes", "yes", "–")] == ["not run"] * 3
    by_category = rows("table-29", build(made))[1:]
    assert len(by_category) == 20
    assert {row[0].partition(" ")[0] for row in by_category} == {"a", "b"}
    assert ["90.0", "91.0", "92.0"] in [row[7:] for row in by_category if row[0].startswith("b ")]


def test_tables_28_and_30_and_every_format() -> None:
    local = build([r for w in (0.0, 0.01, 0.9) for r in both(0.5 + w / 10, local_only=True, lambda_l=w)])
    assert [row[1:3] for row in rows("table-28", local)[1:]] == [
        ["0", "55.0"],
        ["0.01", "55.1"],
        ["0.5", "not run"],
        ["0.9", "64.0"],
        ["1", "not run"],
    ]
    named = [r for name in ("resnet50", "wide_resnet50_2") for r in both(0.6, backbone=name)]
    found = sheet("table-30", build(named))
    assert found is not None
    assert {line.labels for block in found.blocks for line in block.lines} == {
        ("resnet50",),
        ("wide_resnet50_2",),
    }
    files = found.files("tmlr")
    assert set(files) == {"table-30.tex", "table-30.csv", "table-30.html"}
    assert r"resnet50 & \textbf{65.0}" in files["table-30.tex"]
    assert "<b>65.0</b>" in files["table-30.html"]
    assert sheet("table-3", build(named)) is None


# Leaks


def test_what_an_ingredient_buys_is_paired_over_the_same_runs() -> None:
    made = [
        *both(0.5, 0.2, (0, 1), method="dfr"),
        # Two points more on one category, four on the other.
        *(record(v + 0.02, "a", s, "dfr", protocol="test-epoch") for s, v in ((0, 0.5), (1, 0.5))),
        *(record(v + 0.04, "b", s, "dfr", protocol="test-epoch") for s, v in ((0, 0.7), (1, 0.7))),
        # Without its partners there is no difference.
        record(0.9, "a", 0, "dfr", protocol="centre-crop"),
        *both(0.45, 0.2, (0, 1), method="dfr", protocol="paper"),
    ]
    (family,) = leaks(build(made))
    found = changes(family, "strict", "test-epoch", "dfr", "image_auroc")
    assert found is not None and found.low is not None and found.high is not None
    assert found.mean == pytest.approx(3)
    # Student's t of two categories, 2 and 4 points: 3 ± 12.7.
    assert (found.low, found.high) == (
        pytest.approx(3 - 12.706, abs=1e-3),
        pytest.approx(3 + 12.706, abs=1e-3),
    )
    head, first, *_ = rows("leak", build(made))
    assert head == ["numbers", "method", *LEAKS]
    cells = dict(zip(head, first, strict=True))
    assert cells["test-epoch"] == "+3.0 [−9.7, +15.7]"
    assert cells["paper"] == "−5.0 [−5.0, −5.0]"
    assert cells["centre-crop"] == "1 of 4 pairs"
    assert cells["early-stop"] == "not run"
    text = sheet("leak", build(made)).latex("tmlr")  # type: ignore[union-attr]
    assert "$-$5.0 [$-$5.0, $-$5.0]" in text


def test_runs_of_other_settings_weights_or_sizes_are_no_pair() -> None:
    strict = both(0.5)
    for other in (
        {"image_size": 128},
        {"limit_train": 5},
        {"contamination": 0.1},
        {"evaluate": "native"},
    ):
        assert leaks(build([*strict, *both(0.6, protocol="paper", **other)])) == []
    longer = both(0.6, protocol="paper", epochs=2)
    assert sheet("leak", build([*strict, *longer])) is None


# Contamination


def test_contamination_by_share_with_paired_differences() -> None:
    made = [
        r for share, value in ((0.0, 0.8), (0.05, 0.7), (0.1, 0.65)) for r in both(value, contamination=share)
    ]
    board = build(made)
    assert len(board.rankings) == 3, "never in one ranking"
    assert "5 % anomalous training images" in {b for r in board.rankings for b in r.badges()}
    head, row, *_ = rows("contamination", board)
    assert head[2:] == ["0 %", "5 %", "10 %", "last minus first"]
    assert row[2:] == ["85.0", "75.0", "70.0", "−15.0 [−15.0, −15.0]"]


# The command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    made = [
        *both(0.8),
        *both(0.7, loss_lg=False),
        *both(0.6, local_only=True, lambda_l=0.0),
        *both(0.6, local_only=True),
        *both(0.75, backbone="resnet50"),
        *(r for a in (0.5, 0.8) for b in (0.9, 0.99) for r in both(a * b, alpha=a, beta=b)),
        *both(0.7, contamination=0.1),
        *both(0.9, protocol="test-epoch"),
    ]
    for one in made:
        write_record(tmp_path / "results", one)
    return tmp_path / "results"


def test_the_command_writes_each_and_names_the_suite_of_what_is_missing(
    results: Path, tmp_path: Path
) -> None:
    options = ["report", "--format", "csv", "--results", str(results), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*options, "--tables", "paper,leak,contamination"])
    assert done.exit_code == 0, done.output
    written = {path.stem for path in (tmp_path / "out" / "paper").glob("*.csv")}
    assert written >= {*SHEETS.keys() - {"efficiency"}, "table-1", "table-27"}
    shown = (tmp_path / "out" / "paper" / "all.tex").read_text()
    assert all(f"\\input{{{name}}}" in shown for name in ("table-3", "leak", "contamination"))
    for path in results.rglob("*.json"):
        if "backbone" in path.read_text().partition('"identity"')[0]:
            path.unlink()
    done = CliRunner().invoke(main, [*options, "--tables", "table-30"])
    assert done.exit_code == 2
    assert "`bench run --suite backbones`" in done.output


def test_figures_are_drawn_by_name(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ["report", "--format", "csv", "--results", str(results), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(
        main, [*options, "--tables", "table-3,figure-7", "--figures", "figure-6,figure-8,contamination"]
    )
    assert done.exit_code == 0, done.output
    assert "No record allows figure-6: `bench run --suite maps`" in " ".join(done.output.split())
    assert "figure-7:" not in done.output
    assert (tmp_path / "out" / "paper" / "table-3.tex").is_file()
    names = {path.stem.rpartition("-strict")[0] for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert {"figure-7-made", "figure-8-made"} <= names
    assert list((tmp_path / "out" / "figures").glob("contamination-*.pdf"))
    done = CliRunner().invoke(main, [*options, "--figures"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, [*options, "--tables", "figure-77"])
    assert done.exit_code == 2
    assert "There is no figure 'figure-77'. Did you mean 'figure-7'" in done.output
    with pytest.raises(UserError, match=r"There is no figure 'figure-77'. Did you mean 'figure-7'"):
        chosen_figures("figure-77")
    assert chosen_figures("all") == frozenset(FIGURES)


def samples(folder: Path, count: int) -> list[Sample]:
    """Test images, every second one anomalous."""
    found = []
    for n in range(count):
        image, mask = folder / f"{n}.png", folder / f"{n}-mask.png"
        Image.fromarray(np.full((64, 64, 3), 9 * n, np.uint8)).save(image)
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
        found.append(Sample(image, (mask,) if n % 2 else (), "structural" if n % 2 else "normal"))
    return found


def test_figures_5_and_6_are_drawn_from_kept_parts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = [r.model_copy(update={"identity": r.identity.model_copy(update={"data": "d"})}) for r in both(0.8)]
    rng, shown = np.random.default_rng(0), samples(tmp_path, 8)
    for one in made:
        path = record_path(tmp_path, one.spec, one.key)
        write_record(tmp_path, one)
        maps = rng.random((8, 256, 256), dtype=np.float32)
        images = ShownImages(shown, "d", ImageFit(256), tmp_path / "cache")
        keep_view(path, maps, maps.max(axis=(1, 2)), images)
        raw = dict.fromkeys(("local", "global", "attention", "attention_global"), maps[:, ::32, ::32])
        save_parts(path.with_suffix(".parts.safetensors"), KeptParts(raw))
    board = build(made)
    assert len(write_figures(board, tmp_path, tmp_path / "figures", {"figure-5", "figure-6"})) == 4
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {name[:8] for name in names} == {"figure-5", "figure-6"}
    for path in tmp_path.rglob("*.parts.safetensors"):
        path.write_bytes(b"damaged")
    assert write_figures(board, tmp_path, tmp_path / "none", {"figure-5", "figure-6"}) == []
