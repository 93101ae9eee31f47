"""What CONTRIBUTING and the page on architecture say of the code is true."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness.data.card import card_names
from harness.registry.methods import load_method
from harness.spec.metrics import METRICS
from reports.tables.csv_text import to_csv
from reports.tables.formats import to_json, to_parquet
from tests.house import ROOT, modules, picture

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TASKS = {
    task.strip(): re.findall(r"`([\w/]+(?:\.\w+)?/?)`", files)
    for task, files in re.findall(
        r"^\| (?!to add|---)([^|]+)\|([^|]+)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
}
# Names of metrics in a module that is not the table: identities between certain metrics, and papers' words.
OF_CERTAIN_METRICS = {
    *("harness.checks.records", "harness.checks.regression.changes", "harness.metrics.exact"),
    *("harness.metrics.native_size", "reports.page.verdict", "reports.published.numbers"),
}


def constants(path: Path) -> Iterator[str]:
    """Yields the strings of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docs:
            yield node.value


def mention(words: set[str], least: int = 1) -> set[str]:
    """Returns the modules of the engine and the reports that have so many of the words as strings."""
    found = {
        name: words & {*constants(path)} for name, path in modules(ROOT).items() if "methods" not in name
    }
    return {name for name, own in found.items() if len(own) >= least}


def test_the_six_tasks_name_files_that_are_there() -> None:
    assert len(TASKS) == 6
    for task, files in TASKS.items():
        assert files, task
        assert all((ROOT / file).exists() for file in files), task


def test_a_metric_is_a_row_and_a_value() -> None:
    assert len(TASKS["a metric"]) == 2
    assert mention({*METRICS}, least=2) - OF_CERTAIN_METRICS == {"harness.spec.metrics"}


def test_a_dataset_is_a_card() -> None:
    assert TASKS["a dataset"] == ["datasets/"]
    published = {*card_names()} - {"demo"}
    # The published numbers are of five of them, and the audit of those knows how many images they have.
    assert {name for name in mention(published) if not name.startswith("reports.published")} == set()


def test_a_hyper_parameter_is_a_field() -> None:
    (file,) = TASKS["a hyper-parameter"]
    own = {"lambda_l", "lambda_g", "channels"} & {*load_method("ulsad").Config.model_fields}
    assert (ROOT / file).is_file()
    assert not {name for name in mention(own) if name.startswith("harness")}


def test_a_column_of_the_tidy_table_is_in_every_format(tmp_path: Path) -> None:
    assert TASKS["a column of the leaderboard"] == ["reports/rankings/tidy_table.py"]
    table = pd.DataFrame({"method": ["a"], "mean": [1.0], "column": [7]})
    assert "column" in to_csv(table).decode().splitlines()[0]
    assert '"column": 7' in to_json(table).decode()
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(to_parquet(table))
    assert list(pd.read_parquet(tmp_path / "t.parquet")) == ["method", "mean", "column"]


def test_peak_memory_is_measured_in_one_module() -> None:
    (file,) = TASKS["how peak memory is measured"]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in modules(ROOT).values()}
    asked = ("reset_peak_memory_stats", "max_memory_allocated", "clear_refs", "VmHWM")
    assert {name for name, text in sources.items() if any(word in text for word in asked)} == {file}


def test_an_executor_is_a_file_and_an_entry_point() -> None:
    file, project = TASKS["an executor"]
    points = tomllib.loads((ROOT / project).read_text())["project"]["entry-points"]["ulsad_bench.executors"]
    assert points["slurm"].partition(":")[0].replace(".", "/") + ".py" == file
    assert {name for name in mention({"slurm"}) if name.startswith("harness")} == {
        file.removesuffix(".py").replace("/", ".")
    } | {"harness.checks.doctor"}


def test_every_step_of_the_page_is_there_and_none_is_visited_twice() -> None:
    for walk in PAGE.split("\n## ")[1:]:
        steps = re.findall(r"`((?:harness|reports)[\w.]+):([\w.]+)`", walk)
        assert steps
        assert len(set(steps)) == len(steps)
        for module, name in steps:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)


def test_the_picture_is_of_this_house() -> None:
    """`python -m tests.house --picture docs/architecture.svg` draws it anew."""
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == picture(ROOT)
