"""The paper's tables, read back cell by cell from every format."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.common.errors import UserError
from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.metrics import TITLES
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec
from reports.published.numbers import paper
from reports.tables.paper import _HEAD, _OTHERS, build_table, chosen, paper_csv, to_html, to_latex
from reports.write import write

SOURCE = Path(__file__).parents[3] / "reports" / "published" / "ulsad_tmlr2024.csv"


def from_csv(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def from_latex(text: str) -> list[list[str]]:
    """The rows as in the CSV: what every row shares is read from the caption."""
    plain = re.sub(r"\\begin\{tabular\}\[b\]\{@\{\}r@\{\}\}(.*?)\\end\{tabular\}", _unstacked, text)
    plain = re.sub(r"\\(?:textbf|underline)\{([\d.]+)\}", r"\1", plain)
    plain = re.sub(r"\{\\scriptsize \$\\pm\$ ([\d.]+)\}", r"± \1", plain).replace(r"\_", "_")
    caption = re.search(r"\\caption\{(.*)\}", plain)
    assert caption
    shared = dict(part.split(" ") for part in caption[1].partition("Throughout: ")[2].rstrip(".").split(", "))
    if "metric" not in shared:
        shared["metric"] = re.sub(r".*: (.*);.*", r"\1", caption[1].partition(" Throughout")[0])
    head, *rows = [line.removesuffix(r" \\").split(" & ") for line in plain.splitlines() if " & " in line]
    names = {title: name for name, title in {**TITLES, **_OTHERS}.items()}
    own = [name.lower() for name in head if name.lower() in _HEAD]
    found = [[*_HEAD, *head[len(own) :]]]
    for row in rows:
        cells = shared | dict(zip(own, row, strict=False))
        cells["metric"] = names[cells["metric"]]
        found.append([*(cells[name] for name in _HEAD), *row[len(own) :]])
    return found


def _unstacked(found: re.Match[str]) -> str:
    return found[1].replace(r"\\", "")


def from_html(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


@pytest.mark.parametrize("suffix,read", [("csv", from_csv), ("tex", from_latex), ("html", from_html)])
def test_every_cell_reads_back(tmp_path: Path, suffix: str, read: Callable[[str], list[list[str]]]) -> None:
    write(tmp_path / "none", tmp_path / "out", wanted="paper")
    found = {}
    for file in (tmp_path / "out" / "paper").glob(f"table-*.{suffix}"):
        head, *rows = read(file.read_text(encoding="utf-8"))
        for row in rows:
            assert row[0] == "published"
            for method, text in zip(head[5:], row[5:], strict=True):
                found[(file.stem.removeprefix("table-"), *row[1:5], method)] = text
    names = ("table", "dataset", "split", "metric", "category", "method")
    printed = {
        tuple(r[n] for n in names): r["value"] + (f" ± {r['std']}" if r["std"] else "")
        for r in csv.DictReader(SOURCE.open(encoding="utf-8"))
    }
    assert len(printed) == 1746
    assert found == printed


def test_the_best_is_bold_and_memory_is_best_when_low() -> None:
    rows = {row.head[3]: row for row in build_table("table-4", paper()).rows}
    for metric, best in (("throughput", max), ("gpu_memory", min)):
        row = rows[metric]
        values = [float(text.split()[0]) for text in row.texts]
        assert row.places[values.index(best(values))] == 1
    table = build_table("table-7", paper())
    assert r"\textbf{" in to_latex(table)
    assert "<u>" in to_html(table)
    assert paper_csv(table).startswith("numbers,dataset")


def test_measured_numbers_stand_in_rows_apart(tmp_path: Path) -> None:
    spec = RunSpec(dataset="btad", category="01", method="padim", seed=0)
    identity = Identity(method_version=1, config={}, weights={}, data="d", score_rule="max")
    one = RunRecord(
        key="a" * 16,
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        metrics={"all": {"image_auroc": 0.9}},
        categories=["01"],
    )
    write_record(tmp_path / "results", one)
    options = ["--results", str(tmp_path / "results"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["report", "--tables", "table-16", *options])
    assert done.exit_code == 0, done.output
    head, *rows = from_csv((tmp_path / "out" / "paper" / "table-16.csv").read_text())
    measured = [row for row in rows if row[0].startswith("measured strict-256")]
    assert [(row[4], row[head.index("padim")]) for row in measured] == [("01", "90.0"), ("mean", "90.0")]
    plain = build_table("table-16", paper()).rows
    assert from_csv(paper_csv(build_table("table-16", paper())))[1:] == rows[: len(plain)]


def test_an_unknown_table_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'table-33'.*Did you mean 'table-"):
        chosen("table-1,table-33", paper())
