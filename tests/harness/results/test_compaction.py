"""`bench results compact` and `expand`: the same records in one file, and nothing lost on the way."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from harness.common.errors import UserError
from harness.common.places import Places
from harness.execution.claims import Claims
from harness.results import compaction as module
from harness.results import parquet
from harness.results.compaction import compact, drop, expand
from harness.results.outcome_index import Seen
from harness.results.store import (
    Damaged,
    Folder,
    changed,
    read_record,
    read_records,
    recent_records,
    record_names,
    record_path,
    write_record,
)
from harness.spec.record import RunRecord
from reports import records as cached
from reports.write import write
from tests.harness.places import bench
from tests.reports.simulated import Simulation

pa = pytest.importorskip("pyarrow")

MADE = Simulation(40, seeds=2, epochs=3)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty records, of which a group of the compacted file holds seven."""
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 7)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    MADE.write(tmp_path / "results")
    for number, path in enumerate(sorted((tmp_path / "results").glob("*/*/*/*.json"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    return tmp_path / "results"


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def contents(results: Path) -> dict[str, bytes]:
    """What whoever reads records finds, wherever they lie."""
    folder = Folder(results)
    return {name: folder.content(name) for name in record_names(results)}


def report(results: Path, to: Path) -> dict[str, bytes]:
    write(results, to, formats="csv,html,latex")
    # The page says when it was made.
    return {name: re.sub(rb"[\d-]+ [\d:]+ UTC", b"", content) for name, (content, _) in files(to).items()}


def test_records_come_back_byte_for_byte_with_their_times(results: Path) -> None:
    before = files(results)
    done = bench("results", "compact", "--results", results)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"40 records moved into {results / 'records.parquet'}, ")
    assert list(files(results)) == ["records.parquet"]
    assert contents(results) == {name: content for name, (content, _) in before.items()}
    size = (results / "records.parquet").stat().st_size
    assert size < sum(len(content) for content, _ in before.values())
    assert (
        bench("results", "expand", "--results", results).output
        == f"40 records are files again in {results}.\n"
    )
    assert files(results) == before
    assert "No records of" in bench("results", "expand", "--results", results).stderr


def test_what_is_written_later_counts_and_is_taken_in_by_the_same_command(results: Path) -> None:
    first = next(record for record in MADE.records() if record.outcome == "ok")
    compact(results)
    path = write_record(results, first.model_copy(update={"finished": "2026-02-01T00:00:00.000+00:00"}))
    name = path.relative_to(results).as_posix()
    new = path.read_bytes()
    assert contents(results)[name] == new
    assert len(record_names(results)) == 40
    assert "1 are files and in records.parquet too" in bench("verify", "--results", results).output
    assert compact(results).records == 1
    assert list(files(results)) == ["records.parquet"]
    assert contents(results)[name] == new
    assert compact(results).records == 0
    # An older compacted record does not come back over a file.
    newer = write_record(results, first).read_bytes()
    assert expand(results).records == 39
    assert path.read_bytes() == newer


def test_everything_reads_compacted_records_as_if_they_were_files(results: Path, tmp_path: Path) -> None:
    loaded, verified = read_records(results), bench("verify", "--results", results)
    page = report(results, tmp_path / "before")
    archive = tmp_path / "before.tar.gz"
    bench("results", "export", archive, "--results", results)
    newest = recent_records(Folder(results), each=2)
    compact(results)
    assert read_records(results) == loaded
    assert bench("verify", "--results", results).output == verified.output
    assert report(results, tmp_path / "after") == page
    bench("results", "export", tmp_path / "after.tar.gz", "--results", results)
    assert (tmp_path / "after.tar.gz").read_bytes() == archive.read_bytes()
    assert sorted(recent_records(Folder(results), each=2), key=repr) == sorted(newest, key=repr)
    for name, content in contents(results).items():
        assert read_record(results / name) == RunRecord.model_validate_json(content)
    assert read_record(results / "a/b/c/0123456789abcdef.json") == Damaged(
        "cannot be read: No such file or directory"
    )


def test_a_report_takes_compacted_records_from_its_cache_until_they_change(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "FEW", 1)
    monkeypatch.setattr(cached, "SETTLED_NS", 0)
    compact(results)
    first = cached.load_records(results)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "record", None)
        assert [vars(record) for record in cached.load_records(results).records] == [
            vars(r) for r in first.records
        ]
    drop(results, record_names(results)[:1])
    assert len(cached.load_records(results).records) == 39


def test_a_plan_knows_how_compacted_runs_ended(results: Path, tmp_path: Path) -> None:
    names = {record.key: record for record in MADE.records()}

    def look() -> dict[str, Any]:
        seen = Seen(Folder(results), tmp_path / "cache")
        found = {key: seen.look(record.spec, key) for key, record in names.items()}
        return {key: (one and one.outcome, one and one.metrics_version) for key, one in found.items()}

    before = look()
    assert {outcome for outcome, _ in before.values()} >= {"ok"}
    compact(results)
    assert look() == before
    absent = next(iter(names.values()))
    assert Seen(Folder(results), tmp_path / "cache").look(absent.spec, "f" * 16) is None


def test_who_plans_before_and_claims_after_a_compaction_takes_nothing_for_new(
    results: Path, tmp_path: Path
) -> None:
    first, second, *_ = MADE.records()
    folder = Folder(results)
    name = {
        record.key: next(n for n in record_names(results) if record.key in n) for record in (first, second)
    }
    places = Places(tmp_path, results=results)
    tasks: list[Any] = [
        SimpleNamespace(
            places=places, spec=r.spec, key=r.key, record_path=record_path(results, r.spec, r.key)
        )
        for r in (first, second)
    ]
    # The first was planned to be done again as it stands; the second has been done by others since.
    planned_on = {first.key: folder.state(name[first.key])}
    compact(results)
    claims = Claims(tasks, planned_on)
    assert list(claims) == tasks[:1]
    assert [record.key for record in claims.found()] == [second.key]
    claims.close()
    planned_on = {first.key: folder.state(name[first.key])}
    expand(results)
    claims = Claims(tasks, planned_on)
    assert list(claims) == tasks[:1]
    claims.close()
    assert changed((0, 5, 7), None) and changed((0, 5, 7), (3, 5, 8)) and changed((1, 5, 7), (2, 5, 7))


def test_a_record_that_a_run_is_writing_stays_a_file(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(results)
    claimed, rewritten, *_ = sorted(results.glob("*/*/*/*.json"))
    add, at = parquet.Writer.add, [0]

    def meanwhile(writer: parquet.Writer, row: parquet.RecordRow) -> None:
        add(writer, row)
        at[0] += 1
        if at[0] == 20:
            rewritten.write_bytes(rewritten.read_bytes() + b"\n")

    monkeypatch.setattr(parquet.Writer, "add", meanwhile)
    with FileLock(claimed.with_suffix(".claim")):
        assert compact(results).records == 38
    left = {path.relative_to(results).as_posix() for path in results.glob("*/*/*/*.json")}
    assert left == {path.relative_to(results).as_posix() for path in (claimed, rewritten)}
    name = rewritten.relative_to(results).as_posix()
    assert contents(results) == before | {name: before[name] + b"\n"}


# Killed in the middle


def killed(act: Callable[[], object], patch: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Does it in a process of its own, which a planted fault kills."""
    child = os.fork()
    if child == 0:
        patch(pytest.MonkeyPatch())
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the fault was not reached"


def dies(owner: Any, name: str, call: int, after: bool = False) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault: the process ends at the so-maniest call of a function, before or after it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        function, calls = getattr(owner, name), [0]

        def planted(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*given, **named)
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        patch.setattr(owner, name, planted)

    return plant


COMPACTING = {
    "writing": dies(parquet.Writer, "add", 20),
    "written": dies(parquet.Writer, "__exit__", 1, after=True),
    "reading back": dies(parquet.Compacted, "_read", 4),
    "renaming": dies(module, "_settle", 1),
    "renamed": dies(module, "_settle", 1, after=True),
    "removing the first": dies(module, "_remove_file", 1, after=True),
    "removing another": dies(module, "_remove_file", 23),
}
EXPANDING = {
    "writing": dies(module, "write_atomically", 20),
    "written": dies(module, "write_atomically", 40, after=True),
    "another": dies(module.os, "utime", 11),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", COMPACTING)
def test_killed_while_compacting_nothing_is_lost_and_it_goes_on(results: Path, moment: str) -> None:
    before, held = files(results), contents(results)
    killed(lambda: compact(results), COMPACTING[moment])
    assert contents(results) == held
    compact(results)
    assert list(files(results)) == ["records.parquet"]
    expand(results)
    assert files(results) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", EXPANDING)
def test_killed_while_expanding_nothing_is_lost_and_it_goes_on(results: Path, moment: str) -> None:
    before, held = files(results), contents(results)
    compact(results)
    killed(lambda: expand(results), EXPANDING[moment])
    assert contents(results) == held
    expand(results)
    assert {
        name: content for name, (content, _) in files(results).items() if not name.endswith(".tmp")
    } == held
    assert before.keys() <= files(results).keys()


# Merge, prune


def test_merging_compacted_folders_is_merging_folders(results: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for number, record in enumerate(MADE.records()):
        write_record(a if number % 3 else b, record)
        if number % 5 == 0:
            write_record(b, record.model_copy(update={"finished": "2026-03-01T00:00:00.000+00:00"}))
    plain = bench("merge", a, b, "-o", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    compact(a)
    compact(b)
    united = bench("merge", a, b, "-o", tmp_path / "united")
    assert united.output == plain.output.replace("plain", "united")
    assert contents(tmp_path / "united") == contents(tmp_path / "plain")
    # Into a compacted folder only what is new there is written.
    again = bench("merge", tmp_path / "united", "-o", a)
    assert again.exit_code == 0, again.output
    assert contents(a) == contents(tmp_path / "plain")
    new = len(list(a.glob("*/*/*/*.json")))
    assert f"40 records in {a}: {new} written" in again.output.replace("\n", " ")
    assert 0 < new < 40
    good = next(record for record in MADE.records() if record.outcome == "ok")
    write_record(tmp_path / "c", good.model_copy(update={"metrics": {"all": {"image_auroc": 0.5}}}))
    assert "conflict" in bench("merge", tmp_path / "c", "-o", b, a).output


def test_prune_removes_compacted_records(results: Path) -> None:
    failed = {record.key for record in MADE.records() if record.outcome != "ok"} or {"none"}
    record = next(record for record in MADE.records() if record.outcome == "ok")
    bad = RunRecord.model_validate(
        record.model_dump() | {"outcome": "failed", "metrics": {}, "failure": {"message": "x"}}
    )
    write_record(results, bad)
    compact(results)
    listed = bench("results", "prune", "--what", "failed", "--results", results)
    assert f"{bad.key}.json: without scores: failed, compacted" in listed.output
    assert len(record_names(results)) == 40
    bench("results", "prune", "--what", "failed", "--results", results, "--yes")
    assert not any(key in name for name in record_names(results) for key in {*failed, bad.key})
    assert 30 < len(record_names(results)) < 40


# What goes wrong


def test_what_is_no_record_stays_a_file_and_is_named(results: Path) -> None:
    whole, torn, moved, *_ = sorted(results.glob("*/*/*/*.json"))
    torn.write_text("{")
    moved.rename(moved.with_name("0123456789abcdef.json"))
    whole.with_name("ffffffffffffffff.json").symlink_to(whole)
    done = bench("results", "compact", "--results", results)
    assert done.exit_code == 1
    assert "37 records" not in done.output
    assert f"left      {torn}: is no record" in done.output
    assert "0123456789abcdef.json: lies elsewhere than its run belongs" in done.output
    assert "ffffffffffffffff.json: is no file" in done.output
    assert len([name for name in files(results) if name.endswith(".json")]) == 2


def test_only_damaged_files_make_no_compacted_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "results" / "d" / "c" / "m" / "0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert compact(tmp_path / "results").records == 0
    assert list(files(tmp_path / "results")) == [path.relative_to(tmp_path / "results").as_posix()]


def test_a_damaged_file_is_a_sentence_wherever_it_is_read(results: Path, tmp_path: Path) -> None:
    compact(results)
    path = results / "records.parquet"
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"", whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:]):
        path.write_bytes(damaged)
        done = bench("verify", "--results", results)
        assert done.exit_code == 2
        assert f"{path} is damaged or was not made by `bench results compact`" in done.stderr
        for words in (
            ("report", "-o", tmp_path / "out"),
            ("results", "expand"),
        ):
            done = bench(*words, "--results", results)
            assert done.exit_code == 2, words
            assert "is damaged" in done.stderr
        assert path.read_bytes() == damaged


def foreign(path: Path, **columns: Any) -> None:
    """Writes such a file with a row that `bench results compact` would not write."""
    row = {
        **{name: ["a", "b"] for name in ("dataset", "category", "method")},
        "key": ["0" * 16, "1" * 16],
        "outcome": ["ok"] * 2,
        "metrics_version": [1, 1],
        "modified": [1, 1],
        "size": [2, 2],
        "json": [b"{}", b"{}"],
    } | columns
    schema = parquet._schema()
    arrays = [pa.array(row[field.name], field.type) for field in schema]
    pa.parquet.write_table(pa.table(arrays, schema=schema), path)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"dataset": ["..", "b"]}, "it names a record"),
        ({"method": ["/etc", "b"]}, "it names a record"),
        ({"key": ["../../../../x", "1" * 16]}, "it names a record"),
        ({"dataset": ["b", "a"]}, "its rows are not in order"),
        ({"json": [None, b"{}"], "dataset": ["a", None]}, "it has empty cells"),
    ],
)
def test_a_file_from_others_leads_nowhere(tmp_path: Path, columns: dict[str, Any], why: str) -> None:
    import pyarrow.parquet  # noqa: F401

    (tmp_path / "results").mkdir()
    foreign(tmp_path / "results" / "records.parquet", **columns)
    for words in (("verify",), ("results", "expand")):
        done = bench(*words, "--results", tmp_path / "results")
        assert done.exit_code == 2, done.output
        assert why in done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["records.parquet", "results"]


def test_a_row_that_is_no_record_is_damaged_like_a_file(tmp_path: Path) -> None:
    import pyarrow.parquet  # noqa: F401

    (tmp_path / "results").mkdir()
    foreign(tmp_path / "results" / "records.parquet")
    found = read_records(tmp_path / "results").damaged
    assert [path.name for path, _ in found] == ["0" * 16 + ".json", "1" * 16 + ".json"]
    assert all("is no record" in why for _, why in found)


def test_rows_out_of_order_are_not_written(tmp_path: Path) -> None:
    first, second = (parquet.RecordRow(f"d/c/m/{key * 16}.json", "ok", 1, 1, b"{}") for key in "ab")
    for later in (first, second):
        with pytest.raises(ValueError, match="comes after"), parquet.Writer(tmp_path / "x") as writer:
            writer.add(second)
            writer.add(later)


def test_one_process_at_a_time_and_without_pyarrow_a_sentence(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        FileLock(results / "records.parquet.claim"),
        pytest.raises(UserError, match="Another process compacts, expands"),
    ):
        compact(results)
    compact(results)
    find = parquet.importlib.util.find_spec
    monkeypatch.setattr(
        parquet.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    done = bench("verify", "--results", results)
    assert "need pyarrow: run pip install 'ulsad-bench[parquet]'" in done.stderr


def test_a_record_as_large_as_may_be_is_compacted(tmp_path: Path) -> None:
    (record,) = Simulation(1).records()
    path = write_record(tmp_path, record.model_copy(update={"remarks": ["x" * 31_000_000]}))
    content = path.read_bytes()
    json.loads(content)
    compact(tmp_path)
    assert read_record(path) == record.model_validate_json(content)
    expand(tmp_path)
    assert path.read_bytes() == content
