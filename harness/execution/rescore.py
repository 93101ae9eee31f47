"""Metrics again, from kept anomaly maps and the masks on disk: no method is loaded, no device is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.common.places import Places
from harness.data.card import Card, card_names, load_card
from harness.data.category import Category, open_category
from harness.execution.keep import ShownImages, keep_view
from harness.metrics.evaluate import Metrics, Truth, evaluate, read_truth
from harness.metrics.exact import METRICS_VERSIONS
from harness.results.artefacts import maps_path, view_path
from harness.results.locks import alone
from harness.results.map_views import load_view
from harness.results.maps import DamagedMapsError, load_maps
from harness.results.store import (
    Damaged,
    cannot_write,
    prepare_folder,
    read_record,
    record_files,
    replace_record,
)
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord

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
    places: Places, cards: Sequence[str], write: bool, only: Collection[str] = ()
) -> Iterator[Rescored]:
    """Computes the metrics of every record again, one after the other.

    A record is replaced in one step, under its own name; one that is refused stays as it is. Where there is
    none, what a report shows of the maps is made too, see :mod:`harness.results.map_views`. ``metrics_last``
    stays, for maps are kept of the epoch that counted only.

    Args:
        places: where records, datasets and the cache lie.
        cards: paths of cards, for datasets of one's own.
        write: whether to replace the records.
        only: names of the metrics to replace, all where there is none. A record whose metrics are of another
            version is refused then: its values would be of two versions.

    Raises:
        UserError: there is no results folder, it cannot be written, there is no such metric, or a card has a
            mistake.
    """
    results = places.results
    paths = record_files(results)
    opened = _Opened(cards, places)
    if write:
        prepare_folder(results)
    for path in paths:
        old = read_record(path)
        if isinstance(old, Damaged):
            yield Rescored(str(path), refused=old.why)
            continue
        if old.outcome != "ok":
            yield Rescored(old.spec.label(), old)
            continue
        try:
            again = _again(old, path, opened, only)
        except (_RefusedError, DamagedMapsError, UserError) as error:
            yield Rescored(old.spec.label(), old, refused=str(error).rstrip("."))
            continue
        metrics = _replaced(old.metrics, again.metrics, only) if only else again.metrics
        version = METRICS_VERSIONS[old.spec.evaluate]
        fingerprint = old.fingerprint.model_copy(update={"metrics_version": version})
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        new = old.model_copy(update={"metrics": metrics, "fingerprint": fingerprint, "rescored": now})
        if write:
            with alone(results):
                replace_record(results, path, new)
            _view(results, path, again)
        yield Rescored(old.spec.label(), old, new)


class _Opened:
    """The category that records are of, and its truth; records of one category follow one another."""

    def __init__(self, cards: Sequence[str], places: Places) -> None:
        self._own = {card.name: card for card in map(load_card, cards)}
        self._places = places
        self._category: Category | None = None
        self._truth: tuple[tuple[object, ...], Truth, list[int]] | None = None

    def category(self, dataset: str, name: str) -> Category:
        there = self._category
        if there is None or (there.card.name, there.name) != (dataset, name):
            self._truth = None
            self._category = there = open_category(_card(dataset, self._own), name, self._places)
        return there

    def truth(self, record: RunRecord) -> tuple[Truth, list[int]]:
        """Returns what a record's maps are measured against, and which of the test images they are of."""
        spec, moved = record.spec, record.counts.get("moved", 0)
        category = self.category(spec.dataset, spec.category)
        incomplete = record.identity.incomplete_batches
        # Where nothing was moved the seed does not count, and runs share what is read.
        key = (spec.fit, spec.evaluate, incomplete, moved, spec.seed if moved else 0)
        if self._truth is None or self._truth[0] != key:
            rows = category.scored_rows(spec, moved, incomplete)
            self._truth = (key, read_truth(category, spec, rows), rows)
        return self._truth[1:]


@dataclass(frozen=True)
class _Again:
    """What was found again of a record: its metrics, and the maps and images that they are of."""

    metrics: Metrics
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    shown: ShownImages


def _again(old: RunRecord, path: Path, opened: _Opened, only: Collection[str]) -> _Again:
    """Computes the metrics of a record again.

    Raises:
        _RefusedError, DamagedMapsError, UserError: they cannot be.
    """
    spec = old.spec
    category = opened.category(spec.dataset, spec.category)
    if old.identity.data != category.fingerprint:
        raise _RefusedError("its category's files on disk are not those that it was made from")
    version = METRICS_VERSIONS[spec.evaluate]
    if only and old.fingerprint.metrics_version != version:
        versions = f"{old.fingerprint.metrics_version}, these of {version}"
        raise _RefusedError(f"its metrics are of version {versions}: leave out --metrics")
    if spec.protocol not in PROTOCOLS:
        raise _RefusedError(f"its protocol '{spec.protocol}' is unknown")
    truth, rows = opened.truth(old)
    maps, scores = load_maps(maps_path(path))
    samples, cache = category.samples.test, category.places.cache
    shown = ShownImages(samples, old.identity.data, spec.fit, cache, rows)
    return _Again(_metrics(old, maps, scores, truth), maps, scores, shown)


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


def metric_differences(old: Metrics, new: Metrics) -> Iterator[tuple[str, float | None, float | None]]:
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


def _view(results: Path, path: Path, again: _Again) -> None:
    """Makes what a report shows of maps for runs of versions that did not."""
    if load_view(view_path(path)) is not None:
        return
    try:
        keep_view(path, again.maps, again.scores, again.shown)
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
