"""Runs from Python: the same as the command does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import harness
from harness.common.errors import UserError
from tests.harness.places import RUN, bench, inside, make_place, records, undisturbed

ASKED = {
    "methods": ["mine.py:Mine"],
    "datasets": ["own.toml"],
    "image_size": 32,
    "device": "cpu",
    "measure": 0,
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_place(tmp_path)


def test_a_call_leaves_what_the_command_leaves(place: Path) -> None:
    with inside(place):
        found = harness.run(**ASKED, results="called", report_to="said", quiet=True)
        assert bench(*RUN, "--measure", 0).exit_code == 0
        assert (place / "said" / "index.html").is_file()
        (place / "called").rename(place / "own")
        commanded = {path: undisturbed(place / path) for path in records(place)}
        (place / "results").rename(place / "commanded")
        (place / "own").rename(place / "results")
        assert {path: undisturbed(place / path) for path in records(place)} == commanded
    assert len(found.records) == len(found.new) == 2
    assert not found.failed


def test_a_call_goes_on_and_its_table_has_all_runs(place: Path) -> None:
    with inside(place):
        first = harness.run(**ASKED, categories=["a"], report_to=None, quiet=True)
        both = harness.run(**ASKED, report_to=None, quiet=True)
        failing = harness.run(
            **ASKED | {"methods": ["mine.py:Mine[fault=raise]"]}, report_to=None, quiet=True
        )
    assert [len(found.new) for found in (first, both, failing)] == [1, 1, 2]
    table = both.table()
    assert sorted(set(table["category"])) == ["a", "b"]
    (row,) = table[(table["category"] == "a") & (table["metric"] == "image_auroc")].to_dict("records")
    assert row["value"] == first.records[0].metrics["all"]["image_auroc"]
    assert (row["split"], row["key"]) == ("all", first.records[0].key)
    assert len(failing.failed) == 2
    lost = failing.table()
    assert list(lost["outcome"]) == ["failed", "failed"]
    assert all(map(math.isnan, lost["value"]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"methods": "padim"}, r"methods is a list of names: give \['padim'\], not 'padim'."),
        ({"keep": ["map"]}, "--keep map: there are maps, weights and parts to keep."),
        ({"datasets": ["mvtek"]}, "mvtek"),
        ({"executor": "rai"}, "There is no executor 'rai'."),
    ],
)
def test_what_is_wrong_is_one_sentence(place: Path, given: dict[str, object], sentence: str) -> None:
    with inside(place), pytest.raises(UserError, match=sentence):
        harness.run(**ASKED | given, quiet=True)
