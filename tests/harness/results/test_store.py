"""The results folder: old records stay readable, a full disk loses nothing, leftovers go."""

from __future__ import annotations

import errno
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.common import files
from harness.common.errors import UserError
from harness.results.store import prepare_folder, read_record, read_records, write_record
from harness.spec.fingerprints import Fingerprint
from harness.spec.record import SCHEMA_VERSION, RunRecord
from harness.spec.run import Identity, RunSpec, run_key, run_keys

MUSEUM = Path(__file__).parents[2] / "museum"


@pytest.mark.parametrize("path", sorted(MUSEUM.glob("*.json")), ids=lambda path: path.stem)
def test_records_of_every_schema_are_read_for_ever(path: Path) -> None:
    record = read_record(path)
    assert isinstance(record, RunRecord), record
    assert record.outcome == "ok"
    assert 0 <= (record.metrics["all"]["image_auroc"] or 0) <= 1
    assert record.fingerprint.protocol == record.spec.protocol
    assert run_key(record.spec, record.identity) == record.key, "a run that is done is not done again"


# Each field that came after the first records, and the record of the museum that first had it.
LATER = {
    "remarks": "2026-remarks",
    "suite": "2026-remarks",
    "fingerprint.backbone_weights": "2026-remarks",
    "rescored": "2026-rescored",
    "spec.evaluate": "2026-native-spro",
    "identity.defects": "2026-native-spro",
    "resumed": "2026-resumed-paper",
    "checksum": "2026-checksum",
    "operating": "2026-operating",
    "command": "2026-command",
    "choices": "2026-choices",
    "order": "2026-order",
    **dict.fromkeys(
        (
            "spec.contamination",
            "fingerprint.stopping",
            "fingerprint.contamination",
            "made_from",
            "efficiency",
        ),
        "2026-efficiency",
    ),
    "identity.incomplete_batches": "2026-drop-last",
    "fingerprint.incomplete_batches": "2026-drop-last",
}


def test_the_museum_has_a_record_with_and_one_without_every_later_field() -> None:
    """Whoever adds a field to records adds one that has it, made by a run, and its name here."""

    def fields(content: dict[str, Any]) -> set[str]:
        parts = ("spec", "identity", "fingerprint")
        return {*content, *(f"{part}.{name}" for part in parts for name in content[part])}

    has = {path.stem: fields(json.loads(path.read_text())) for path in MUSEUM.glob("*.json")}
    known = set(RunRecord.model_fields)
    for name, model in (("spec", RunSpec), ("identity", Identity), ("fingerprint", Fingerprint)):
        known |= {f"{name}.{field}" for field in model.model_fields}
    assert known - has["2026-first"] == set(LATER)
    for field, record in LATER.items():
        assert field in has[record]


def test_keys_of_many_seeds_are_those_of_each() -> None:
    for path in MUSEUM.glob("*.json"):
        record = RunRecord.model_validate_json(path.read_text())
        seeds = [0, 7, 2**31 - 1]
        each = [run_key(record.spec.model_copy(update={"seed": seed}), record.identity) for seed in seeds]
        assert run_keys(record.spec, seeds, record.identity) == each
        spec = record.spec.model_dump(mode="json")
        if all(spec.get(name) == plain for name, plain in (("evaluate", "input"), ("contamination", 0.0))):
            whole = {k: v for k, v in spec.items() if k not in ("evaluate", "contamination")}
            own = record.identity.model_dump(mode="json")
            later = {"defects": "", "incomplete_batches": "kept"}
            identity = {k: v for k, v in own.items() if k not in later or v != later[k]}
            text = json.dumps({"spec": whole, "identity": identity}, sort_keys=True, separators=(",", ":"))
            assert hashlib.sha256(text.encode()).hexdigest()[:16] == record.key


def test_the_museum_has_every_schema() -> None:
    found = {RunRecord.model_validate_json(path.read_text()).schema_version for path in MUSEUM.glob("*.json")}
    assert found == set(range(1, SCHEMA_VERSION + 1))


def test_a_record_of_the_future_is_named_not_read(tmp_path: Path) -> None:
    path = next(MUSEUM.glob("*.json"))
    later = tmp_path / "d" / "c" / "m" / "k.json"
    later.parent.mkdir(parents=True)
    text = path.read_text().replace('"schema_version": 1', f'"schema_version": {SCHEMA_VERSION + 1}', 1)
    later.write_text(text)
    loaded = read_records(tmp_path)
    assert not loaded.records
    assert "schema version" in loaded.damaged[0][1]


def test_a_full_disk_is_a_sentence_and_the_old_record_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(next(MUSEUM.glob("*.json")))
    assert isinstance(record, RunRecord)
    path = write_record(tmp_path, record)
    before = path.read_bytes()

    def full(_: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"The disk of the results folder .* is full: free space"):
        write_record(tmp_path, record.model_copy(update={"finished": "later"}))
    with pytest.raises(UserError, match="is full"):
        prepare_folder(tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing half-written stays"


def test_drivers_may_prepare_one_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as drivers:
        for done in [drivers.submit(prepare_folder, tmp_path) for _ in range(400)]:
            done.result()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "c" / "m"
    folder.mkdir(parents=True)
    mine = folder / files.temporary_name("k.json")
    dead = folder / mine.name.replace(f".{files.os.getpid()}@", ".999999999@")
    mine.touch()
    dead.touch()
    prepare_folder(tmp_path)
    assert mine.exists()
    assert not dead.exists()
