"""Metrics again, from kept anomaly maps and the masks on disk: no method is loaded, no device is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.data.card import Card, card_names, load_card
from harness.data.file_hashes import data_fingerprint
from harness.data.image_roles import remaining, scored
from harness.data.samples import CategoryData, read_category
from harness.execution.keep import keep_view
from harness.metrics.evaluate import Metrics, Truth, evaluate, read_truth
from harness.metrics.exact import METRICS_VERSIONS
from harness.results.artefacts import view_path
from harness.results.locks import alone
from harness.results.map_views import load_view
from harness.results.maps import DamagedMapsError, load_maps
from harness.results.store import cannot_write, prepare, read_record, record_files, replace_record
from harness.spec.protocols import PROTOCOLS, IncompleteBatches
from harness.spec.record import RunRecord
from harness.spec.run import Evaluate, RunSpec

MASK_RESIZES = frozenset(protocol.mask_resize for protocol in PROTOCOLS.values())


@dataclass(frozen=True)
class Rescored:
    """What became of one record.

    Attributes:
        label: the run in a few words, or the path of a file that is no readable record.
        old: the record as it was, ``None`` where the file is no readable record.
        new: the record with its new metrics, ``None`` where there are none.
        refused: why there are no new metrics; empty for a run that failed and never had any.
    """

    label: str
    old: RunRecord | None = None
    new: RunRecord | None = None
    refused: str = ""


class _RefusedError(Exception):
    """A record cannot be scored again; the message says why in a few words."""


def rescore(
    results: Path,
    cards: Sequence[str],
    data_root: Path | None,
    cache: Path,
    write: bool,
    only: Collection[str] = (),
) -> Iterator[Rescored]:
    """Computes the metrics of every record again, one after the other.

    A record is replaced in one step, under its own name; one that is refused stays as it is. Where there is
    none, what a report shows of the maps is made too, see :mod:`harness.results.map_views`. ``metrics_last``
    stays, for maps are kept of the epoch that counted only.

    Args:
        results: the results folder.
        cards: paths of cards, for datasets of one's own.
        data_root: folder of datasets.
        cache: the cache folder.
        write: whether to replace the records.
        only: names of the metrics to replace, all where there is none. A record whose metrics are of another
            version is refused then: its values would be of two versions.

    Raises:
        UserError: there is no results folder, it cannot be written, there is no such metric, or a card has a
            mistake.
    """
    paths = record_files(results)
    own = {card.name: card for card in map(load_card, cards)}
    if write:
        prepare(results)

    @lru_cache(maxsize=1)  # records of one category follow one another
    def on_disk(dataset: str, category: str) -> tuple[Card, CategoryData, str]:
        card = _card(dataset, own)
        data = read_category(card, category, data_root, cache)
        return card, data, data_fingerprint(data, cache)

    @lru_cache(maxsize=1)
    def truth(
        dataset: str,
        category: str,
        protocol: str,
        size: int,
        where: Evaluate,
        incomplete_batches: IncompleteBatches,
        *moved: int,
    ) -> tuple[Truth, list[int]]:
        card, data, _ = on_disk(dataset, category)
        spec = RunSpec(
            dataset=dataset,
            category=category,
            method="",
            seed=0,
            protocol=protocol,
            image_size=size,
            evaluate=where,
        )
        rows = scored(remaining([sample.kind for sample in data.test], *moved), incomplete_batches)
        return read_truth(card, data.test, spec, data_root, cache, rows), rows

    for path in paths:
        old = read_record(path)
        if isinstance(old, str):
            yield Rescored(str(path), refused=old)
            continue
        if old.outcome != "ok":
            yield Rescored(old.spec.label(), old)
            continue
        try:
            spec = old.spec
            if old.identity.data != on_disk(spec.dataset, spec.category)[2]:
                raise _RefusedError("its category's files on disk are not those that it was made from")
            version = METRICS_VERSIONS[spec.evaluate]
            if only and old.fingerprint.metrics_version != version:
                versions = f"{old.fingerprint.metrics_version}, these of {version}"
                raise _RefusedError(f"its metrics are of version {versions}: leave out --metrics")
            if spec.protocol not in PROTOCOLS:
                raise _RefusedError(f"its protocol '{spec.protocol}' is unknown")
            # Where nothing was moved the seed does not count, and runs share what is read.
            moved = old.counts.get("moved", 0)
            out = (moved, spec.seed if moved else 0)
            how = (spec.protocol, spec.image_size, spec.evaluate, old.identity.incomplete_batches)
            found, rows = truth(spec.dataset, spec.category, *how, *out)
            maps, scores = load_maps(path.with_suffix(".maps.safetensors"))
            metrics = _metrics(old, maps, scores, found)
        except (_RefusedError, DamagedMapsError, UserError) as error:
            yield Rescored(old.spec.label(), old, refused=str(error).rstrip("."))
            continue
        if only:
            metrics = _replaced(old.metrics, metrics, only)
        fingerprint = old.fingerprint.model_copy(update={"metrics_version": version})
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        new = old.model_copy(update={"metrics": metrics, "fingerprint": fingerprint, "rescored": now})
        if write:
            with alone(results):
                replace_record(results, path, new)
            _view(results, path, new, maps, scores, (on_disk(spec.dataset, spec.category)[1], rows), cache)
        yield Rescored(old.spec.label(), old, new)


def _replaced(old: Metrics, new: Metrics, names: Collection[str]) -> Metrics:
    """Returns the old metrics with some of the new ones."""
    known = list(dict.fromkeys(name for values in new.values() for name in values))
    for name in names:
        if name not in known:
            raise UserError(f"There is no metric '{name}': --metrics takes {', '.join(known)}.")
    return {
        split: old.get(split, {}) | {name: value for name, value in values.items() if name in names}
        for split, values in new.items()
    }


def differences(old: Metrics, new: Metrics) -> Iterator[tuple[str, float | None, float | None]]:
    """Yields ``split metric``, the old and the new value of every metric that either has."""
    for split in dict.fromkeys([*old, *new]):
        before, after = old.get(split, {}), new.get(split, {})
        for name in dict.fromkeys([*before, *after]):
            yield f"{split} {name}", before.get(name), after.get(name)


def _card(dataset: str, own: Mapping[str, Card]) -> Card:
    if dataset in own:
        return own[dataset]
    if dataset in card_names():
        return load_card(dataset)
    raise _RefusedError(f"dataset '{dataset}' has no built-in card: give its card with --cards")


def _view(
    results: Path,
    path: Path,
    record: RunRecord,
    maps: NDArray[np.float32],
    scores: NDArray[np.float32],
    tested: tuple[CategoryData, Sequence[int]],
    cache: Path,
) -> None:
    """Makes what a report shows of maps for runs of versions that did not."""
    if load_view(view_path(path)) is not None:
        return
    protocol = PROTOCOLS[record.spec.protocol]
    fitted = (protocol.resize, protocol.crop)
    try:
        data, rows = tested
        keep_view(path, maps, scores, data.test, record.identity.data, fitted, cache, rows)
    except OSError as error:
        raise cannot_write(results, error) from error


def _metrics(
    record: RunRecord, maps: NDArray[np.float32], scores: NDArray[np.float32], truth: Truth
) -> Metrics:
    if record.identity.defects != truth.defects:
        raise _RefusedError("its category's table of defects is not the one that it was made with")
    native = record.spec.evaluate == "native"
    if not native and record.fingerprint.mask_resize not in MASK_RESIZES:
        raise _RefusedError(f"its masks were resized in an unknown way, '{record.fingerprint.mask_resize}'")
    size = record.spec.image_size
    shape = (len(truth.kinds), size, size)
    if maps.shape != shape or scores.shape != maps.shape[:1]:
        shapes = f"{maps.shape} and {scores.shape}"
        raise _RefusedError(f"its maps and scores have the shapes {shapes}, the test images {shape}")
    try:
        return evaluate(truth, scores, maps, record.split_categories, record.spec.category)
    except (ValueError, RuntimeError) as error:
        raise _RefusedError(str(error)) from error
