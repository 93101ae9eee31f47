"""What is no finite number is said, and never taken for one: options, scores, maps, weights, times."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.checks.regression.baseline import read_baseline
from harness.checks.regression.verdict import Report
from harness.cli.main import main
from reports.page.verdict import cost
from reports.tables.efficiency import COLUMNS
from tests.harness.checks.regression.results import record, write
from tests.harness.places import TRAINED, bench, inside, make_place

# Its score is not finite where an image is white, its map where one is black.
HOLES = """
import torch

from harness import Citation, Method, Prediction


class Holes(Method):
    version = 1
    citation = Citation(title="Holes", authors="Person, A.", year=2026, licence="MIT")

    def fit(self, data, on_epoch):
        self.mean = torch.cat(list(data.train.batches(8))).float().mean(dim=0)

    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1)
        level = images.float().mean(dim=(1, 2, 3))
        maps[level == 0, 3, 3] = float("inf")
        score = torch.where(level == 255, torch.nan, maps.nan_to_num(posinf=0.0).amax(dim=(1, 2)))
        return Prediction(score, maps)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]
"""


def options(command: click.Command, name: str = "bench") -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield f"{name} {parameter.opts[0]}", parameter
    if isinstance(command, click.Group):
        for own, inner in command.commands.items():
            yield from options(inner, f"{name} {own}")


def test_every_number_of_the_command_line_is_finite() -> None:
    found = {name: p for name, p in options(main) if isinstance(p.type, click.types.FloatParamType)}
    assert {"bench predict --threshold", "bench check --min-effect", "bench run --timeout"} <= found.keys()
    for name, parameter in found.items():
        for value in ("nan", "inf", "-inf", "NaN", "1e999"):
            with pytest.raises(click.BadParameter):
                parameter.type.convert(value, parameter, None)
                pytest.fail(f"{name} takes {value}")


@pytest.mark.parametrize("option", ["--min-effect", "--min-slow-down"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_margin_that_is_no_number_makes_no_loss_green(tmp_path: Path, option: str, value: str) -> None:
    write(tmp_path / "old")
    file = tmp_path / "baseline.json"
    assert bench("baseline", "--results", tmp_path / "old", "-o", file).exit_code == 0
    write(tmp_path / "new", lost=0.6)
    done = bench("check", "--baseline", file, "--results", tmp_path / "new", option, value)
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{option}': {value} is no finite number." in done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = make_place(tmp_path_factory.mktemp("finite"))
    (place / "holes.py").write_text(HOLES)
    with inside(place):
        done = bench("run", "--methods", "holes.py:Holes", *TRAINED)
        assert done.exit_code == 0, done.output
        yield place


def test_an_image_whose_score_or_map_is_not_finite_is_named_and_has_no_verdict(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "data" / "own" / "a" / "test" / "good", tmp_path / "in")
    Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(tmp_path / "in" / "1-white.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "in" / "2-black.png")
    own = ("--method-file", "holes.py:Holes", "--device", "cpu", "-o", tmp_path / "out")
    done = bench("predict", tmp_path / "in", *own, "--threshold", 1e9)
    assert done.exit_code == 1
    assert "1-white.png a score that is not finite" in done.output
    assert "2-black.png a map that is not finite" in done.output
    assert "6 images at threshold 1e+09: 4 normal, 2 not finite." in done.output
    rows = {row["file"]: row for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())}
    assert [rows[name]["verdict"] for name in ("1-white.png", "2-black.png")] == ["not finite"] * 2
    assert [rows[name]["score"] for name in ("1-white.png", "2-black.png")] == ["", ""]
    assert all(rows[f"{i}.png"]["verdict"] == "normal" and rows[f"{i}.png"]["score"] for i in range(4))
    assert sorted(path.name for path in (tmp_path / "out" / "maps").iterdir()) == [
        f"{i}.png.png" for i in range(4)
    ]


def test_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path) -> None:
    (path,) = trained.glob("results/own/a/holes*/*.json")
    copy = Path(shutil.copy(path, tmp_path))
    state = load_file(path.with_suffix(".weights.safetensors"))
    state["mean"][0, 0, 0] = torch.nan
    save_file(state, copy.with_suffix(".weights.safetensors"))
    images = trained / "data" / "own" / "a" / "test" / "good"
    done = bench("predict", copy, images, "--method-file", "holes.py:Holes", "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert "have values in 'mean' that are not finite" in done.output
    assert not (tmp_path / "out").exists()


def test_a_time_of_nothing_is_nothing_measured(tmp_path: Path) -> None:
    write(tmp_path / "old")
    file = tmp_path / "baseline.json"
    assert bench("baseline", "--results", tmp_path / "old", "-o", file).exit_code == 0
    write(tmp_path / "new", slow=0.0, hit=("ulsad", "dfr"))
    place = ("--baseline", file, "--results", tmp_path / "new", "--json", tmp_path / "report.json")
    done = bench("check", *place)
    assert done.exit_code == 0, done.output
    report = Report.model_validate_json((tmp_path / "report.json").read_text())
    cells = [verdict for verdict in report.verdicts if not verdict.group]
    said = "speed not compared: nothing measured: fit in the results, predict in the results"
    assert all(said in verdict.notes for verdict in cells)
    assert bench("check", *place, "--require-speed").exit_code == 2
    assert bench("baseline", "--results", tmp_path / "new", "-o", tmp_path / "of-nothing.json").exit_code == 0
    for cell in read_baseline(tmp_path / "of-nothing.json").cells:
        assert all(not costs.fit and not costs.predict for costs in cell.costs.values())
    assert "inf" not in json.dumps(report.model_dump(mode="json"))


def test_a_report_shows_no_time_where_none_was_measured() -> None:
    nothing = record(fit=0.0, predict=0.0)
    found = cost([nothing])
    assert found is not None and found.speed is None and found.fit is None
    (minutes,) = (column.value for column in COLUMNS if column.head == "fit, min")
    assert minutes(nothing) is None
    both = cost([nothing, record(fit=30.0)])
    assert both is not None and both.fit == 30.0
