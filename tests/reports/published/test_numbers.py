"""The paper's printed numbers: read as they are, and audited."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.common.errors import UserError
from harness.spec.metrics import METRICS
from reports.published.consistency import check_consistency
from reports.published.numbers import load_numbers, our_name, paper, published
from reports.write import write

HEAD = "table,dataset,split,category,method,metric,value,std,unit\n"
ROW = "1,MVTec AD,all,mean,RD,image_auroc,98.5,,%\n"


def test_the_papers_numbers_carry_our_names() -> None:
    numbers = paper()
    assert len(numbers) == 1746
    cards = {p.stem for p in (Path(__file__).parents[3] / "datasets").glob("*.toml")}
    assert {n.dataset for n in numbers} <= cards
    assert {n.method for n in numbers} == {e.name for e in entry_points(group="ulsad_bench.methods")}
    assert {n.metric for n in numbers} <= {*METRICS, "throughput", "gpu_memory"}
    assert (our_name("dataset", "MVTec LOCO AD"), our_name("metric", "Image AUROC")) == (
        "mvtec_loco",
        "image_auroc",
    )


def test_the_audit_finds_one_mean_and_fourteen_pooled_values() -> None:
    found = check_consistency(paper())
    assert (found.means, found.pooled) == (189, 45)
    (mean,) = [f for f in found.findings if f.kind == "mean"]
    assert (mean.number.table, mean.number.method, mean.number.printed) == ("19", "dfr", "85.18")
    assert mean.expected == "93.31, mean of 12 categories"
    pooled = [f for f in found.findings if f.kind == "pooled"]
    assert len(pooled) == 14
    (box,) = [f for f in pooled if (f.number.method, f.number.category) == ("dfr", "breakfast_box")]
    assert (box.number.table, box.number.printed, box.expected) == ("10", "65.46", "58.67 to 61.55")


def test_a_planted_wrong_mean_is_found() -> None:
    numbers = paper()
    at = next(i for i, n in enumerate(numbers) if (n.table, n.category, n.method) == ("7", "mean", "ulsad"))
    numbers[at] = replace(numbers[at], value=numbers[at].value - 0.5)
    assert [f.number.table for f in check_consistency(numbers).findings if f.kind == "mean"] == ["7", "19"]


def test_the_command_audits_without_results(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", "--audit", "--results", str(tmp_path / "none")])
    assert done.exit_code == 0, done.output
    assert "1 of 189 printed means" in " ".join(done.output.split())
    assert write(tmp_path / "none", tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()


def test_files_of_ones_own_are_added(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(HEAD + ROW)
    added = published([file])[-1]
    assert (added.source, added.dataset, added.method) == ("mine", "mvtec", "reverse_distillation")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.replace("std,", ""), "line 1: column 'std'"),
        (HEAD + ROW + ROW.replace("98.5", "high"), "line 3, column 'value': 'high'"),
        (HEAD + ROW.replace("98.5", "101"), "line 2, column 'value': '101'"),
        (HEAD + ROW.replace("RD", ""), "line 2, column 'method'"),
        (HEAD + ROW.strip() + ",more\n", "line 2: there are more values"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_column(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_numbers(file)
    assert str(file) in str(error.value)
    assert words in str(error.value)
