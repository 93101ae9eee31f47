"""The cache of records: never another number than the records', whatever becomes of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.common.cache import clear_cache
from harness.common.errors import UserError
from harness.results import store
from harness.results.store import Damaged, read_records
from harness.spec.record import RunRecord
from reports import records
from reports.rankings.leaderboard import build
from reports.rankings.tidy_table import tidy, tidy_csv
from reports.records import load_records
from tests.reports.simulated import Simulation

MADE = Simulation(60, categories=("x", "y"), epochs=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "FEW", 1)
    # The files of a test are all younger than two seconds.
    monkeypatch.setattr(records, "SETTLED_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    MADE.write(tmp_path / "results")
    return tmp_path / "results"


def plain(found: store.Loaded) -> tuple[list[str], object]:
    """Every field of every record but epochs, and the damaged files."""
    kept = [json.dumps(r.model_dump(mode="json", exclude={"epochs"}), sort_keys=True) for r in found.records]
    return kept, found.damaged


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from now on."""
    read: list[Path] = []

    class Reading(store.Folder):
        def record(self, name: str) -> RunRecord | Damaged:
            read.append(self.results / name)
            return super().record(name)

    monkeypatch.setattr(records, "Folder", Reading)
    return read


def only(cache: Path) -> Path:
    (place,) = cache.glob("*")
    return place


def test_what_the_cache_gives_is_what_the_files_hold(
    results: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = read_records(results)
    cold = load_records(results)
    read = counted(monkeypatch)
    warm = load_records(results)
    assert not read
    assert plain(cold) == plain(warm) == plain(direct)
    assert all(isinstance(record, RunRecord) and record.epochs == [] for record in warm.records)
    tables = [tidy_csv(tidy(build(found.records).rankings)) for found in (direct, cold, warm)]
    assert tables[0] == tables[1] == tables[2]
    first, *others = warm.records
    assert any(other.environment is first.environment for other in others)


def test_only_changed_new_and_damaged_files_are_read(
    results: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_records(results)
    paths = store.record_files(results)
    changed, damaged, gone, copied = paths[:4]
    old = changed.stat()
    text = changed.read_text()
    good = next(line for line in text.splitlines() if '"image_auroc": 0.' in line)
    changed.write_text(text.replace(good, good.replace("0.", "0.0", 1)[: len(good) - 1] + good[-1:], 1))
    # Even if size and time of the last change say that it is the same file.
    os.utime(changed, ns=(old.st_atime_ns, old.st_mtime_ns))
    damaged.write_text("{}")
    gone.unlink()
    new = copied.with_name("0000.json")
    new.write_bytes(copied.read_bytes())
    read = counted(monkeypatch)
    found = load_records(results)
    assert {*read} == {changed, damaged, new}
    assert plain(found) == plain(read_records(results))
    assert [path for path, _ in found.damaged] == [damaged]
    read.clear()
    # What is damaged is looked at each time, and named each time.
    assert plain(load_records(results)) == plain(found)
    assert read == [damaged]


def test_a_fresh_file_is_not_remembered(results: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SETTLED_NS", 3600 * 10**9)
    load_records(results)
    read = counted(monkeypatch)
    load_records(results)
    assert len(read) == MADE.n


def _flip(place: Path) -> None:
    content = place.read_bytes()
    place.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


def _other_schema(place: Path) -> None:
    head, _, body = place.read_bytes().partition(b"\n")
    words = head.split()
    words[-2] = hashlib.sha256(b"other").hexdigest().encode()
    place.write_bytes(b" ".join(words) + b"\n" + body)


def _folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: place.write_bytes(b""),
        lambda place: place.write_bytes(place.read_bytes()[:-1]),
        lambda place: place.write_bytes(b"\x00" * 1000),
        lambda place: place.write_bytes(place.read_bytes().replace(b"records 1", b"records 0", 1)),
        lambda place: place.unlink(),
        _flip,
        _other_schema,
        _folder,
    ],
)
def test_a_harmed_or_foreign_cache_is_not_believed(
    results: Path, cache: Path, harm: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_records(results)
    harm(only(cache))
    read = counted(monkeypatch)
    assert plain(load_records(results)) == plain(read_records(results))
    assert len(read) == MADE.n
    if only(cache).is_file():
        read.clear()
        load_records(results)
        assert not read


def test_a_cache_whose_sum_is_right_and_whose_content_is_not_is_not_believed(
    results: Path, cache: Path
) -> None:
    load_records(results)
    place = only(cache)
    for body in (b"[{}, []]", b"{}", b"nothing", b'[{"identity":[]},[["a",[1,1,1,1],[0],{}]]]'):
        place.write_bytes(records._head(body) + b"\n" + body)
        assert plain(load_records(results)) == plain(read_records(results))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_done_without(
    results: Path, cache: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(records, "write_atomically", refuse)
    assert plain(load_records(results)) == plain(read_records(results))
    assert not list(cache.glob("*"))


def test_a_cache_folder_that_is_a_file_is_done_without(results: Path, cache: Path) -> None:
    cache.write_text("")
    assert plain(load_records(results)) == plain(read_records(results))


def test_two_reports_at_once_leave_a_whole_cache(
    results: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = plain(read_records(results))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(plain(load_records(results)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [direct] * 6
    read = counted(monkeypatch)
    assert plain(load_records(results)) == direct
    assert not read
    assert only(cache).name.startswith("records-")


def test_a_record_with_a_number_that_json_lacks_is_damaged(results: Path, cache: Path) -> None:
    path = next(p for p in store.record_files(results) if '"ok"' in p.read_text())
    content = json.loads(path.read_text())
    content["metrics"]["all"]["aupro"] = float("nan")
    path.write_text(json.dumps(content))
    for _ in range(2):
        found = load_records(results)
        assert content["key"] not in {r.key for r in found.records}
        assert path in {damaged for damaged, _ in found.damaged}


def test_few_records_leave_no_file_and_another_folder_has_its_own(
    results: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_records(results)
    other = tmp_path / "other"
    results.rename(other)
    load_records(other)
    assert len(list(cache.glob("records-*.cache"))) == 2
    assert clear_cache(cache)[0] == 2
    monkeypatch.setattr(records, "FEW", 1000)
    assert plain(load_records(other)) == plain(read_records(other))
    assert not list(cache.glob("*"))


def test_no_folder_is_a_sentence(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="There is no results folder"):
        load_records(tmp_path / "none")
