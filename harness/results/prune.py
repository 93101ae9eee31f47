"""What a results folder holds that no table uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.results.artefacts import all_checkpoints, all_kept, all_pictures, kept_paths
from harness.results.store import Folder, newest, read_records, record_files, record_path

WHAT = ("superseded", "failed", "damaged", "orphans", "checkpoints", "maps", "parts", "weights")


@dataclass(frozen=True)
class Waste:
    """A file that can go, and why, in a few words."""

    path: Path
    why: str
    bytes: int


def find_waste(results: Path, what: Collection[str]) -> Iterator[Waste]:
    """Yields what can be removed; with a record all that lies beside it.

    Args:
        results: the results folder.
        what: ``superseded`` (another record of the run counts: its method, data or weights have changed),
            ``failed`` (records without scores), ``damaged`` (files that are no readable record), ``orphans``
            (maps, views, parts, weights and pictures without a record), ``checkpoints`` (of trainings that
            could go on), ``maps``, ``parts`` and ``weights`` (of all records).

    Raises:
        UserError: there is no such folder, or one in it cannot be read.
    """
    loaded = read_records(results)
    counting = {record.key for record in newest(loaded.records)}
    records = {record_path(results, record.spec, record.key): record for record in loaded.records}
    for path, why in loaded.damaged:
        if "damaged" in what:
            yield from _record(path, f"damaged: {why}")
    compacted = Folder(results)
    for path, record in records.items():
        if "superseded" in what and record.key not in counting:
            why = "superseded by another record of its run"
        elif "failed" in what and record.outcome != "ok":
            why = f"without scores: {record.outcome.replace('_', ' ')}"
        else:
            why = ""
            for name, kept in kept_paths(path).items():
                if name in what:
                    yield from _file(kept, f"{name} of a record")
        if not why:
            continue
        if not path.exists() and (state := compacted.state(path.relative_to(results).as_posix())):
            yield Waste(path, f"{why}, compacted", state[1])
        yield from _record(path, why)
    if "checkpoints" in what:
        for path in all_checkpoints(results):
            yield from _file(path, "checkpoint")
    if "orphans" in what:
        yield from _orphans(results)


def _orphans(results: Path) -> Iterator[Waste]:
    records = set(record_files(results))
    used = set[Path]()
    for what, path, record in all_kept(results):
        if record not in records:
            yield from _file(path, "belongs to no record")
        elif what in ("maps", "view"):
            used.add(path.parent.parent)
    for path in all_pictures(results):
        if path.parent not in used:
            yield from _file(path, "pictures for maps that are gone")


def _record(path: Path, why: str) -> Iterator[Waste]:
    yield from _file(path, why)
    for kept in kept_paths(path).values():
        yield from _file(kept, why)


def _file(path: Path, why: str) -> Iterator[Waste]:
    if path.is_file():
        yield Waste(path, why, path.stat().st_size)
