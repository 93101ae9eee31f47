"""Whether records are what a run wrote: keys, fingerprints, identities of the metrics, checksums.

A checksum tells a change after the writing, by hand or by a disk. It is no signature: who means to deceive
can compute it too. So everything that can be worked out is worked out again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.data.card import NORMAL
from harness.metrics.exact import METRICS_VERSIONS
from harness.results.artefacts import maps_path, weights_path
from harness.results.maps import DamagedMapsError, load_maps
from harness.results.store import Damaged, Folder, file_names, parse_record, record_names, record_path
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import PROTOCOLS, PUBLISHED_BATCH, unfilled
from harness.spec.record import KINDS_MEAN, RunRecord, checksum
from harness.spec.run import run_key

_TOLERANCE = 1e-9
# What an allocator may have had in hand before a run began, so that its peak does not show it.
_IN_HAND = 64 * 1024**2

_Splits = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Verified:
    """What was found out about one file.

    Attributes:
        wrong: what is wrong, in a few words each; empty for a good record.
        sealed: whether it has a checksum; records from before there was one have none.
    """

    path: Path
    wrong: tuple[str, ...]
    sealed: bool = False


def verify(results: Path) -> Iterator[Verified]:
    """Checks every record below a folder, and what is kept beside it.

    Raises:
        UserError: there is no such folder, or one in it cannot be read.
    """
    folder = Folder(results)
    for name in record_names(results):
        path = results / name
        try:
            content = folder.content(name)
        except OSError as error:
            yield Verified(path, (f"cannot be read: {error.strerror or error}",))
            continue
        record = parse_record(content)
        if isinstance(record, Damaged):
            yield Verified(path, (record.why,))
            continue
        try:
            wrong = [*mistakes(record, json.loads(content))]
        except (ArithmeticError, ValueError):
            wrong = ["has numbers that no run gives"]
        if record_path(results, record.spec, record.key) != path:
            wrong.append("lies elsewhere than its run belongs")
        wrong += _beside(path, record)
        yield Verified(path, tuple(wrong), sealed=bool(record.checksum))


def twice(results: Path) -> int:
    """Returns how many records are files and compacted too; the files count.

    Raises:
        UserError: a folder in the results cannot be read, or the compacted records cannot.
    """
    there = Folder(results).compacted()
    return sum(there.known(name) is not None for name in file_names(results)) if there else 0


def mistakes(record: RunRecord, content: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a record in itself, in a few words each.

    Args:
        record: the record.
        content: the JSON that it was read from.
    """
    if record.checksum and record.checksum != checksum(content):
        yield "was changed after it was written: its checksum is another"
    if record.key != run_key(record.spec, record.identity):
        yield "has not the key of its run"
    yield from _fingerprint(record)
    if (record.outcome == "ok") == bool(record.failure):
        yield f"is '{record.outcome}' {'with a' if record.failure else 'without a'} failure"
    if (record.outcome == "ok") != ("all" in record.metrics):
        yield f"is '{record.outcome}' {'with' if record.metrics else 'without'} metrics"
    yield from _counts(record)
    for name, splits in (("metrics", record.metrics), ("metrics_last", record.metrics_last or {})):
        yield from (f"{name}: {what}" for what in _metrics(record, splits))
    yield from _epochs(record)
    yield from _operating(record)
    yield from _costs(record)
    if record.categories and record.spec.category not in record.categories:
        yield "is of a category that its dataset has not"
    for field in ("finished", "rescored"):
        if not _is_time(getattr(record, field)):
            yield f"{field} is no time"


def _fingerprint(record: RunRecord) -> Iterator[str]:
    version = record.fingerprint.metrics_version
    if record.spec.protocol not in PROTOCOLS:
        yield f"has the protocol '{record.spec.protocol}', which there is not"
    elif record.fingerprint != fingerprint(record.spec, record.identity, version):
        yield "has not the fingerprint of its run"
    newest = METRICS_VERSIONS[record.spec.evaluate]
    if not 1 <= version <= newest:
        yield f"has metrics of version {version}; there are 1 to {newest}"


def _counts(record: RunRecord) -> Iterator[str]:
    counts = record.counts
    if any(count < 0 for count in counts.values()):
        yield "counts less than no image"
    roles = ("train", "validation", "test", "moved", "unscored")
    kinds = [count for name, count in counts.items() if name not in roles]
    if kinds and sum(kinds) != counts.get("test"):
        yield f"counts {counts.get('test')} test images, but {sum(kinds)} by kind"
    dropped = record.identity.incomplete_batches == "dropped"
    if counts and dropped != ("unscored" in counts):
        yield f"{'does not count' if dropped else 'counts'} test images that were left out"
    elif dropped and (unfilled(counts.get("test", 0)) or counts.get("unscored", 0) >= PUBLISHED_BATCH):
        yield f"counts {counts.get('test')} test images, which do not fill batches of {PUBLISHED_BATCH}"
    limit = record.spec.limit_train
    # Anomalous images that were moved to the training images come on top.
    if limit is not None and counts.get("train", 0) - counts.get("moved", 0) > limit:
        yield f"counts {counts['train']} training images, more than its limit of {limit}"


def _metrics(record: RunRecord, splits: _Splits) -> Iterator[str]:
    for split, values in splits.items():
        for metric, value in values.items():
            if value is not None and not 0 <= value <= 1:
                yield f"{split} {metric} is {value:g}, outside [0, 1]"
        yield from (f"{split} {what}" for what in _impossible(record.counts, split, values))
    kinds = {name: values for name, values in splits.items() if name not in ("all", KINDS_MEAN)}
    for metric, mean in splits.get(KINDS_MEAN, {}).items():
        found = [value for values in kinds.values() if (value := values.get(metric)) is not None]
        if mean is not None and (not found or abs(mean - sum(found) / len(found)) > _TOLERANCE):
            yield f"{KINDS_MEAN} {metric} is {mean:g}, not the mean over the kinds"
    if not kinds or {name for name in record.counts if record.counts[name] and name in kinds} != set(kinds):
        return
    anomalous = sum(record.counts[kind] for kind in kinds)
    pooled = splits.get("all", {}).get("image_auroc")
    parts = [values.get("image_auroc") for values in kinds.values()]
    if (
        pooled is None
        or None in parts
        or anomalous + record.counts.get(NORMAL, 0) != record.counts.get("test")
    ):
        return
    mean = sum(record.counts[k] * (kinds[k]["image_auroc"] or 0.0) for k in kinds) / anomalous
    if abs(mean - pooled) > _TOLERANCE:
        yield f"all image_auroc is {pooled:g}, the kinds together have {mean:g}"


def _impossible(counts: Mapping[str, int], split: str, values: Mapping[str, float | None]) -> Iterator[str]:
    """Yields what so many normal and anomalous images cannot give."""
    normal = counts.get(NORMAL, 0)
    anomalous = counts.get("test", 0) - normal if split == "all" else counts.get(split, 0)
    if normal < 1 or anomalous < 1:
        return
    # The Mann–Whitney statistic counts pairs, ties half.
    auroc, halves = values.get("image_auroc"), 2 * normal * anomalous
    if auroc is not None and abs(auroc * halves - round(auroc * halves)) > _TOLERANCE * halves:
        yield f"image_auroc is {auroc:g}, which {normal} normal and {anomalous} anomalous images cannot give"
    # A threshold below all scores calls every image anomalous.
    f1, least = values.get("image_f1max"), 2 * anomalous / (2 * anomalous + normal)
    if f1 is not None and f1 < least - _TOLERANCE:
        yield f"image_f1max is {f1:g}, below the {least:g} of calling all images anomalous"


def _operating(record: RunRecord) -> Iterator[str]:
    """Yields what thresholds cannot do to the images of the run."""
    found, counts = record.operating, record.counts
    if found is None:
        return
    normal, test = counts.get(NORMAL, 0), counts.get("test", 0)
    wanted = {name: counts.get(name) for name in found.images} | {NORMAL: normal, "all": test - normal}
    if found.images != wanted or found.validation != counts.get("validation"):
        yield "operating: its images are not those of the run"
    every = sorted([*found.thresholds, *found.frontier], key=lambda threshold: threshold.value)
    for lower, higher in pairwise(every):
        if any(lower.above.get(name, 0) < count for name, count in higher.above.items()):
            yield f"operating: more images are above {higher.value:g} than above {lower.value:g}"
    if any(not 0 <= n <= found.images.get(name, 0) for t in every for name, n in t.above.items()):
        yield "operating: a threshold stops more images than there are"


def _epochs(record: RunRecord) -> Iterator[str]:
    numbers = [log.number for log in record.epochs]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        yield "has epochs out of order"
    if record.selected_epoch is not None and record.selected_epoch not in numbers:
        yield f"has selected epoch {record.selected_epoch}, which it does not log"
    protocol = PROTOCOLS.get(record.spec.protocol)
    if protocol is None or record.outcome != "ok":
        return
    selects = protocol.selection != "last"
    if selects != (record.metrics_last is not None):
        yield f"is of protocol '{protocol.name}' {'without' if selects else 'with'} metrics of the last epoch"
    seen = {log.number: log.test_image_auroc for log in record.epochs if log.test_image_auroc is not None}
    if seen and not selects:
        yield f"is of protocol '{protocol.name}', but has looked at the test set between epochs"
    elif seen and record.selected_epoch != (best := max(seen, key=lambda number: (seen[number], -number))):
        yield f"has selected epoch {record.selected_epoch}, but epoch {best} has the best test image AUROC"


def _costs(record: RunRecord) -> Iterator[str]:
    if times := record.timings:
        named = times.model_dump()
        for name, value in named.items():
            if not (math.isfinite(value) and value >= 0):
                yield f"timings: {name} is {value:g}"
        test = record.counts.get("test", 0)
        if (
            test
            and times.predict > 1e-9
            and not math.isclose(times.images_per_second, test / times.predict, rel_tol=1e-6)
        ):
            speed = times.images_per_second
            yield f"timings: images_per_second is {speed:g}, not {test} test images / predict"
    for name, peak in record.peak_memory.items():
        # The host's peak is counted above where the worker began, and may be nothing.
        if peak < 0 or (peak == 0 and name == "device"):
            yield f"peak memory: {name} is {peak}"


def _beside(path: Path, record: RunRecord) -> Iterator[str]:
    """Yields what is wrong with the maps and weights that were kept."""
    maps = maps_path(path)
    if maps.exists():
        try:
            kept, scores = load_maps(maps)
            test, size = record.counts.get("test", len(scores)), record.spec.image_size
            if kept.shape != (test, size, size) or len(scores) != test:
                yield f"its kept maps have the shape {kept.shape}, its test images {(test, size, size)}"
        except DamagedMapsError as error:
            yield str(error)
    weights = weights_path(path)
    if not weights.exists():
        return
    try:
        with safe_open(weights, framework="numpy") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        yield f"its kept weights are damaged ({error})"
        return
    size, peak = weights.stat().st_size, sum(record.peak_memory.values())
    if names and record.peak_memory and peak + _IN_HAND < size:
        yield f"its memory peaked at {peak} bytes, but its kept weights have {size}"


def _is_time(text: str) -> bool:
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False
