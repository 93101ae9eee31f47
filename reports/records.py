"""The records of a results folder for reports, from a cache where they have not changed.

Reading a hundred thousand files takes long, and most of what they hold, the log of the epochs, is on no
report. So the rest is kept in one file. It is only ever a copy: whatever is wrong with it, the records
themselves are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from pydantic import TypeAdapter, create_model

from harness.common.files import SETTLED_NS, cache_dir, remove_leftovers, write_atomically
from harness.results.store import COMPACTED, Damaged, Folder, Loaded, record_names
from harness.spec.record import RunRecord

# Fewer records than these are read in no time, and leave no file behind.
FEW = 1000
# Raised when records are read otherwise than before although their schema is the same.
_FORMAT = 1
# Fields that many records have in common are kept once, and are one object in memory.
_SHARED = (
    "identity",
    "fingerprint",
    "categories",
    "split_categories",
    "counts",
    "environment",
    "citation",
    "remarks",
    "suite",
    "command",
)
# Numbers that a million of lie apart from the JSON, whose reader takes most of the time.
_NUMBERS = ("metrics", "metrics_last")
_OWN = RunRecord.model_fields.keys() - {*_SHARED, *_NUMBERS, "epochs"}
_TYPES: Mapping[str, Any] = {name: RunRecord.model_fields[name].annotation for name in _SHARED}
_ADAPTERS: Mapping[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in _TYPES.items()}
# A record whose shared fields and metrics come later.
_Own: Any = create_model("_Own", __base__=RunRecord, **dict.fromkeys(_SHARED, (Any, None)))  # type: ignore[call-overload]


# What tells that a file is still the same: its size, when it was modified and when changed, in nanoseconds,
# and its number. No named tuple: a hundred thousand of them take longer to make than to read.
_Stamp = tuple[int, int, int, int]
_Known = dict[str, tuple[_Stamp, RunRecord]]
_Shape = list[list[tuple[str, list[str]]] | None]
_LISTS: Any = {"shapes": list[_Shape]} | {name: list[kind] for name, kind in _TYPES.items()}  # type: ignore[valid-type]
_Lists: Any = create_model("_Lists", **{name: (kind, ...) for name, kind in _LISTS.items()})  # type: ignore[call-overload]
# The shared values; then for each file its name, stamp, the places of its shared values and of the names of
# its metrics, and its own values. Behind this JSON follow the values of all metrics.
_CONTENT: TypeAdapter[Any] = TypeAdapter(tuple[_Lists, list[tuple[str, _Stamp, tuple[int, ...], _Own]]])


def load_records(results: Path, datasets: Collection[str] = (), names: Sequence[str] | None = None) -> Loaded:
    """Reads every record below a folder, without its epochs; damaged files are named, never raised.

    Equal identities, fingerprints, environments and the like are one object.

    Args:
        results: the folder.
        datasets: only the records of these; none means all.
        names: what :func:`chosen_names` says of them, where it is known already.

    Raises:
        UserError: there is no such folder.
    """
    names = chosen_names(results, datasets) if names is None else names
    if len(names) < FEW:
        return _load(results, names, None)
    # The user's cache folder, not the results folder: that may be read-only or somebody else's, and a cache
    # that came with records from elsewhere could say other numbers than they do.
    which = "/".join([str(results.resolve()), *sorted(datasets)])
    return _load(
        results, names, cache_dir() / f"records-{hashlib.sha256(which.encode()).hexdigest()[:16]}.cache"
    )


def chosen_names(results: Path, datasets: Collection[str] = ()) -> list[str]:
    """Returns where the records of some datasets lie, of none named those of all, as ``record_names`` does.

    Raises:
        UserError: there is no such folder.
    """
    names = record_names(results)
    return [name for name in names if name.partition("/")[0] in datasets] if datasets else names


def _load(results: Path, names: Sequence[str], place: Path | None) -> Loaded:
    pool = _Pool()
    known = _read(place, pool) if place else {}
    kept: _Known = {}
    records, damaged = [], []
    settled = time.time_ns() - SETTLED_NS
    folder, compacted = Folder(results), _stamp(f"{results}/{COMPACTED}")
    for name in names:
        stamp = _stamp(f"{results}/{name}")
        if stamp[0] < 0:
            stamp = compacted
        found = known.get(name)
        if found is None or found[0] != stamp:
            record = folder.record(name)
            if isinstance(record, Damaged):
                damaged.append((results / name, record.why))
                continue
            found = stamp, pool.share(record)
        records.append(found[1])
        if max(stamp[1:3]) < settled:
            kept[name] = found
    if place and _stamps(kept) != _stamps(known):
        _write(place, kept)
    return Loaded(tuple(records), tuple(damaged))


def _stamp(path: str) -> _Stamp:
    """What tells a file's state; of one that is not there, a state that no file has."""
    try:
        found = os.stat(path)  # noqa: PTH116 - many times faster than a Path
    except OSError:
        return -1, -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _stamps(known: _Known) -> dict[str, _Stamp]:
    return {name: stamp for name, (stamp, _) in known.items()}


class _Pool:
    """The shared values of records, each there once: by field and JSON."""

    def __init__(self) -> None:
        self.values: dict[str, dict[bytes, Any]] = {name: {} for name in _SHARED}

    def add(self, name: str, value: Any) -> Any:
        """Returns the value that stands for all its equals."""
        return self.values[name].setdefault(_ADAPTERS[name].dump_json(value), value)

    def share(self, record: RunRecord) -> RunRecord:
        """Returns a record just read, without its epochs, its shared fields being those of the pool."""
        shared = {name: self.add(name, getattr(record, name)) for name in _SHARED}
        # Copies of a hundred thousand records take seconds, and nobody else knows this one yet.
        record.__dict__.update(shared, epochs=[])
        return record


def _read(place: Path, pool: _Pool) -> _Known:
    """What the cache holds; nothing where it is not there, damaged, or made for other records."""
    try:
        head, _, body = place.read_bytes().partition(b"\n")
        return _parsed(body, pool) if head == _head(body) else {}
    except (OSError, ValueError, IndexError):
        return {}


def _parsed(body: bytes, pool: _Pool) -> _Known:
    text, _, tail = body.partition(b"\n")
    lists, entries = _CONTENT.validate_json(text)
    values = [[pool.add(name, value) for value in getattr(lists, name)] for name in _SHARED]
    array = np.frombuffer(tail, dtype="<f8")
    numbers = array.tolist()
    for place in np.flatnonzero(np.isnan(array)).tolist():
        numbers[place] = None
    left = iter(numbers)
    known: _Known = {}
    for name, stamp, (*places, shape), own in entries:
        own.__dict__.update((field, of[at]) for field, of, at in zip(_SHARED, values, places, strict=True))
        for field, splits in zip(_NUMBERS, lists.shapes[shape], strict=True):
            own.__dict__[field] = (
                None if splits is None else {split: dict(zip(metrics, left)) for split, metrics in splits}  # noqa: B905
            )
        known[name] = stamp, own
    return known


def _write(place: Path, known: _Known) -> None:
    """Writes the cache, or not: one that cannot be written only makes the next report slower."""
    # What is read again must be every record as it is, which it is not where one has no finite numbers.
    with contextlib.suppress(OSError, ValueError):
        body = _body(known)
        read = _parsed(body, _Pool())
        if odd := {name for name, (_, record) in known.items() if vars(read[name][1]) != vars(record)}:
            body = _body({name: found for name, found in known.items() if name not in odd})
        remove_leftovers(place.parent)
        write_atomically(place, _head(body) + b"\n" + body)


def _body(known: _Known) -> bytes:
    lists: dict[str, list[Any]] = {name: [] for name in (*_SHARED, "shapes")}
    places: dict[str, dict[Any, int]] = {name: {} for name in lists}
    numbers: list[float | None] = []
    lines, own_fields = [], set(_OWN)
    for name, (stamp, record) in known.items():
        at = [_place(places[f], lists[f], id(value := getattr(record, f)), value) for f in _SHARED]
        shape: list[Any] = []
        for splits in (record.metrics, record.metrics_last):
            shape.append(None if splits is None else [(split, [*scores]) for split, scores in splits.items()])
            numbers += [value for scores in (splits or {}).values() for value in scores.values()]
        at.append(_place(places["shapes"], lists["shapes"], repr(shape), shape))
        # Most fields are as they mostly are; reading those of a hundred thousand records takes a second.
        own = record.model_dump_json(include=own_fields, exclude_defaults=True)
        lines.append(f"[{json.dumps(name)},{json.dumps(stamp)},{at},{own}]")
    shapes = json.dumps(lists.pop("shapes")).encode()
    shared = b",".join(
        b'"%s":[%s]' % (name.encode(), b",".join(map(_ADAPTERS[name].dump_json, values)))
        for name, values in lists.items()
    )
    text = b'[{"shapes":%s,%s},[%s]]' % (shapes, shared, ",".join(lines).encode())
    return text + b"\n" + np.array(numbers, dtype="<f8").tobytes()


def _place(places: dict[Any, int], values: list[Any], key: Any, value: Any) -> int:
    """The place of a value in a list, to which it is added where it is new."""
    place = places.setdefault(key, len(values))
    if place == len(values):
        values.append(value)
    return place


def _head(body: bytes) -> bytes:
    """The first line of a cache: made for which records, by what, and a sum over all that follows."""
    schema = json.dumps([RunRecord.model_json_schema(), pydantic.VERSION], sort_keys=True).encode()
    sums = (hashlib.sha256(part).hexdigest() for part in (schema, body))
    return " ".join(["ulsad-bench records", str(_FORMAT), *sums]).encode()
