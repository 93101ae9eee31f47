"""The union of results folders: every run once, no score ever chosen.

Two records of one run with the same scores are one result, measured twice: the newer stays. A record with
scores stays where another has none, the run having failed there. Two with different scores are a conflict:
nothing is written at all until a person has decided.

What is kept beside the records (maps and their view, parts, weights, pictures) comes along, from whichever
folder has it. Checkpoints and claims do not: they belong to a run that goes on where they lie. Links are
not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.common.errors import UserError
from harness.common.files import copy_atomically, is_plain_file, write_atomically
from harness.results.artefacts import all_pictures, kept_paths
from harness.results.locks import alone
from harness.results.sequence import raise_to
from harness.results.store import (
    Damaged,
    Folder,
    cannot_write,
    order_of,
    parse_record,
    prepare_folder,
    rank,
    record_names,
    record_path,
)
from harness.spec.record import RunRecord


@dataclass(frozen=True)
class Merged:
    """What became of a merge.

    Attributes:
        records: how many records the union has.
        written: how many of them were not in the target before, or stood there otherwise.
        twice: how many runs were there more than once.
        conflicts: why nothing was written, a sentence for each run.
        damaged: path and reason of what is no readable record; it was left out.
    """

    records: int
    written: int
    twice: int
    conflicts: tuple[str, ...]
    damaged: tuple[tuple[Path, str], ...]


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Writes the union of results folders, and of what the target holds already, into the target.

    Raises:
        UserError: a source is not there, or the target cannot be written.
    """
    for source in sources:
        if not source.is_dir():
            raise UserError(f"There is no results folder {source}: give folders that `bench run` has made.")
    existing = [target] if target.is_dir() else []
    # The target as it is called here, however else it is called among the sources.
    folders = [Folder(one) for one in {one.resolve(): one for one in [*sources, *existing]}.values()]
    # In which of the folders a record lies, one bit each: of a million records the names alone take 150 MB.
    places: dict[str, int] = {}
    for bit, folder in enumerate(folders):
        for name in record_names(folder.results):
            places[name] = places.get(name, 0) | 1 << bit

    def found_in(bits: int) -> list[Folder]:
        return [folder for bit, folder in enumerate(folders) if bits >> bit & 1]

    conflicts = [
        conflict
        for name, bits in places.items()
        if bits.bit_count() > 1
        for conflict in _conflicts(name, found_in(bits))
    ]
    if conflicts:
        return Merged(len(places), 0, 0, tuple(conflicts), ())
    prepare_folder(target)
    damaged: list[tuple[Path, str]] = []
    records = written = twice = last = 0
    with alone(target):
        try:
            for name, bits in places.items():
                good, bad = _readable(name, found_in(bits))
                damaged += bad
                if good:
                    records += 1
                    twice += len(good) > 1
                    written += _write(good, target)
                    last = max(last, order_of(good[0].record))
            raise_to(target, last)
            for folder in folders:
                _copy_pictures(folder.results, target)
        except OSError as error:
            raise cannot_write(target, error) from error
    return Merged(records, written, twice, (), tuple(damaged))


class _Found(NamedTuple):
    """A record: the folder it is in, where it is or would be as a file, what it says, and its JSON."""

    folder: Folder
    path: Path
    record: RunRecord
    content: bytes


def _readable(name: str, folders: Sequence[Folder]) -> tuple[list[_Found], list[tuple[Path, str]]]:
    """Returns the records of one name, the one that stays first, and what is no record, with the reason."""
    good, bad = list[_Found](), list[tuple[Path, str]]()
    for folder in folders:
        path = folder.results / name
        try:
            content = folder.content(name)
        except OSError as error:
            bad.append((path, f"cannot be read: {error.strerror or error}"))
            continue
        record = parse_record(content)
        if isinstance(record, Damaged):
            bad.append((path, record.why))
        # By its run's name, not by the path that somebody gave it: a path may lead anywhere.
        elif record_path(Path(), record.spec, record.key) != Path(name):
            bad.append((path, "lies elsewhere than its run belongs"))
        elif path.is_symlink():
            bad.append((path, "is a link"))
        else:
            good.append(_Found(folder, path, record, content))
    # The text decides between equals, so that the order of the folders does not.
    good.sort(key=lambda one: (one.record.outcome == "ok", rank(one.record), one.content), reverse=True)
    return good, bad


def _conflicts(name: str, folders: Sequence[Folder]) -> Iterator[str]:
    good, _ = _readable(name, folders)
    scored = sorted((one for one in good if one.record.outcome == "ok"), key=lambda one: one.path)
    for one in scored[1:]:
        kept = scored[0]
        if _scores(one.record) != _scores(kept.record):
            what = _difference(kept.record, one.record)
            label = one.record.spec.label()
            yield f"{label}: {kept.path} and {one.path} have different scores ({what})"


def _scores(record: RunRecord) -> tuple[object, ...]:
    return record.metrics, record.metrics_last, record.selected_epoch


def _difference(a: RunRecord, b: RunRecord) -> str:
    """Returns in a few words what the scores of two records differ in, the image AUROC if in that."""
    for split in {**a.metrics, **b.metrics}:
        before, after = a.metrics.get(split, {}), b.metrics.get(split, {})
        for metric in {**before, **after}:
            if before.get(metric) != after.get(metric):
                return f"{split} {metric}: {before.get(metric)} and {after.get(metric)}"
    return f"epochs {a.selected_epoch} and {b.selected_epoch}, or the last epoch's metrics"


def _write(found: Sequence[_Found], target: Path) -> bool:
    """Puts the record that stays into the target, with what any record of the same scores has beside it."""
    stays = found[0]
    own = record_path(target, stays.record.spec, stays.record.key)
    for what, kept in kept_paths(own).items():
        for one in found:
            beside = kept_paths(one.path)[what]
            if one.record.outcome == "ok" and not kept.exists() and is_plain_file(beside):
                copy_atomically(beside, kept)
    there = next((one for one in found if one.path == own), None)
    changed = there is None or there.content != stays.content
    if changed:
        write_atomically(own, stays.content, settle=False)
    return changed


def _copy_pictures(folder: Path, target: Path) -> None:
    for path in all_pictures(folder):
        other = target / path.relative_to(folder)
        if not other.exists() and is_plain_file(path):
            copy_atomically(path, other)
