"""What a plan remembers of a results folder is never taken for what a changed record says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.results import outcome_index as module
from harness.results import store
from harness.results.outcome_index import Seen
from harness.results.store import Folder, recent_records, record_path
from harness.spec.record import RunRecord

MUSEUM = Path(__file__).parents[2] / "museum"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A record of the museum in a results folder, an hour old."""
    monkeypatch.setattr(module, "_FEW", 1)
    content = (MUSEUM / "2026-checksum.json").read_text()
    found = RunRecord.model_validate_json(content)
    path = record_path(tmp_path / "results", found.spec, found.key)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    os.utime(path, (time.time() - 3600,) * 2)
    return found


def look(tmp_path: Path, record: RunRecord) -> module.Ended | None:
    seen = Seen(Folder(tmp_path / "results"), tmp_path / "cache")
    found = seen.look(record.spec, record.key)
    seen.remember()
    return found


def test_a_record_is_read_once(tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    first = look(tmp_path, record)
    assert first is not None
    assert (first.outcome, first.metrics_version, first.damage) == ("ok", 1, "")

    def never(_: Path) -> RunRecord:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_record", never)
    assert look(tmp_path, record) == first
    assert look(tmp_path, record.model_copy(update={"key": "0" * 16})) is None


def test_a_changed_record_is_read_again(tmp_path: Path, record: RunRecord) -> None:
    look(tmp_path, record)
    path = record_path(tmp_path / "results", record.spec, record.key)
    path.write_text(path.read_text().replace('"outcome": "ok"', '"outcome": "failed"'))
    changed = look(tmp_path, record)
    assert changed is not None
    assert changed.outcome == "failed"
    path.write_text("{")
    damaged = look(tmp_path, record)
    assert damaged is not None
    assert (damaged.outcome, damaged.damage != "") == ("", True)
    path.unlink()
    assert look(tmp_path, record) is None


def test_a_fresh_record_is_not_remembered(tmp_path: Path, record: RunRecord) -> None:
    os.utime(record_path(tmp_path / "results", record.spec, record.key))
    look(tmp_path, record)
    (made,) = (tmp_path / "cache" / "seen").iterdir()
    assert record.key not in made.read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1, "ended": {"a": 3}}', '{"format": 99}'])
def test_a_damaged_memory_is_as_none(tmp_path: Path, record: RunRecord, content: str) -> None:
    look(tmp_path, record)
    (made,) = (tmp_path / "cache" / "seen").iterdir()
    made.write_text(content)
    found = look(tmp_path, record)
    assert found is not None
    assert found.outcome == "ok"


def test_artefacts_lie_beside_their_record(tmp_path: Path, record: RunRecord) -> None:
    path = record_path(tmp_path / "results", record.spec, record.key)
    path.with_suffix(".maps.safetensors").touch()
    seen = Seen(Folder(tmp_path / "results"), tmp_path / "cache")
    assert seen.kept(record.spec, record.key, ["maps"])
    assert not seen.kept(record.spec, record.key, ["maps", "weights"])


def test_the_plan_and_the_forecast_list_a_folder_once(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []

    def scandir(path: Path) -> object:
        listed.append(str(path))
        return os.scandir(path)

    monkeypatch.setattr(store, "os", SimpleNamespace(**vars(os) | {"scandir": scandir}))
    folder = Folder(tmp_path / "results")
    assert Seen(folder, tmp_path / "cache").look(record.spec, record.key) is not None
    assert recent_records(folder) == [record]
    assert len(listed) == len(set(listed)) == 4
