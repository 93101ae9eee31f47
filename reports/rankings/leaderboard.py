"""Records → one tidy table. Everything that a report shows comes from it; nothing downstream recomputes.

A *ranking* is what may be compared: one dataset under one protocol fingerprint, in one state of its
files, with one set of weights per backbone. A mean over categories exists only where every category and every
seed of the ranking is there.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.results.store import newest
from harness.spec.record import RunRecord
from harness.spec.run import Identity
from reports.rankings.badges import newest_versions, outdated_notes, outdated_of
from reports.rankings.ranking import Ranking


@dataclass(frozen=True)
class Leaderboard:
    """Everything that reports show.

    Attributes:
        rankings: what may be compared, by dataset and fingerprint.
        notes: what was left out or kept apart, in sentences.
    """

    rankings: tuple[Ranking, ...]
    notes: tuple[str, ...]


def build(
    records: Sequence[RunRecord],
    damaged: Sequence[tuple[Path, str]] = (),
    versions: Mapping[str, int] | None = None,
) -> Leaderboard:
    """Groups records into rankings.

    Of several records of one run (its method, data or weights have changed since) the newest counts.

    Args:
        records: what was run.
        damaged: path and reason of files that are no readable record.
        versions: of the methods that are installed, by name; a record may know of a newer one.
    """
    notes = [f"Damaged record skipped: {path}: {reason}." for path, reason in damaged]
    known = newest_versions(records, versions or {})
    latest = newest(records)
    if older := len(records) - len(latest):
        notes.append(f"{older} older records of the same runs are superseded by newer ones.")
    # A category's files may have changed: only records of their newest state stand side by side.
    files: dict[tuple[str, str], str] = {}
    tables: dict[tuple[str, str, str], str] = {}
    states = []
    for record in latest:
        spec, identity = record.spec, record.identity
        place = (spec.dataset, spec.category)
        files[place] = identity.data
        tables[(*place, spec.evaluate)] = identity.defects
        states.append((record, place, spec.evaluate, identity))
    current = [
        record
        for record, place, evaluate, identity in states
        if identity.data == files[place] and identity.defects == tables[(*place, evaluate)]
    ]
    if outdated := len(latest) - len(current):
        notes.append(f"{outdated} records are left out: the files of their category have changed since.")
    # Records that come from the cache share their fingerprints: each is worked out once.
    distinct = {id(record.fingerprint): record.fingerprint for record in current}
    short = {key: found.short() for key, found in distinct.items()}
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in current:
        groups[(record.spec.dataset, short[id(record.fingerprint)])].append(record)
    rankings = []
    for (dataset, name), members in sorted(groups.items()):
        parts = _apart(members)
        if len(parts) > 1:
            notes.append(
                f"{dataset}, {name}: weights of one backbone differ between runs, which are ranked "
                f"apart, in {len(parts)} rankings."
            )
        for suffix, part in parts.items():
            full = f"{name}-{suffix}" if len(parts) > 1 else name
            rankings.append(_ranking(dataset, full, part, known))
    notes += outdated_notes(old for ranking in rankings for old in ranking.outdated)
    return Leaderboard(tuple(rankings), tuple(notes))


def selection_gaps(board: Leaderboard) -> list[tuple[str, str, float | None, float | None, str]]:
    """What selecting the epoch on test data adds: ``(dataset, method, selected, last, "5 of 6")``.

    Both are image AUROC in percent, means over all runs of a method, ``None`` unless every run has both.
    """
    rows: list[tuple[str, str, float | None, float | None, str]] = []
    for ranking in board.rankings:
        for method in ranking.methods:
            pairs = [
                (record.metrics["all"]["image_auroc"], record.metrics_last["all"]["image_auroc"])
                for record in ranking.by_method[method]
                if record.metrics and record.metrics_last
            ]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            want = len(ranking.categories) * len(ranking.seeds)
            selected, last = None, None
            if both and len(both) == want:
                selected, last = (100 * statistics.fmean(values) for values in zip(*both, strict=True))
            if both:
                rows.append((ranking.dataset, method, selected, last, f"{len(both)} of {want}"))
    return rows


def _apart(records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Splits records where one backbone has two sets of weights."""
    distinct = {id(record.fingerprint): record.fingerprint for record in records}
    weights: dict[str, set[str]] = defaultdict(set)
    for found in distinct.values():
        for backbone, sha in found.weights.items():
            weights[backbone].add(sha)
    suffixes = {}
    for key, found in distinct.items():
        odd = [f"{b}={s}" for b, s in sorted(found.weights.items()) if len(weights[b]) > 1]
        suffixes[key] = hashlib.sha256("|".join(odd).encode()).hexdigest()[:4]
    parts: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        parts[suffixes[id(record.fingerprint)]].append(record)
    return parts


def _ranking(dataset: str, name: str, records: list[RunRecord], versions: Mapping[str, int]) -> Ranking:
    labels = _labels(records)
    kinds: set[str] = set().union(*(record.metrics for record in records)) - {"all"}
    categories = max((record.categories for record in records), key=len)
    return Ranking(
        dataset=dataset,
        name=name,
        fingerprint=records[0].fingerprint,
        methods=tuple(sorted(set(labels.values()))),
        categories=tuple(categories),
        seeds=tuple(sorted({record.spec.seed for record in records})),
        splits=("all", *sorted(kinds)),
        records={(labels[r.key], r.spec.category, r.spec.seed): r for r in records},
        outdated=outdated_of(records, versions),
    )


def _labels(records: Iterable[RunRecord]) -> dict[str, str]:
    """Names each record's row: the method, and what tells its settings from others of the same name."""
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.spec.method].append(record)
    labels = {}
    for method, members in by_method.items():
        distinct = {id(record.identity): record.identity for record in members}
        settings = {key: _settings(identity) for key, identity in distinct.items()}
        keys = sorted(set().union(*settings.values()))
        differing = [k for k in keys if len({s.get(k) for s in settings.values()}) > 1]
        names = {}
        for key, own in settings.items():
            shown = ", ".join(f"{k}={own[k]}" for k in differing if k in own)
            names[key] = f"{method} ({shown})" if shown else method
        for record in members:
            labels[record.key] = names[id(record.identity)]
    return labels


def _settings(identity: Identity) -> dict[str, str]:
    own = {key: str(value) for key, value in identity.config.items()}
    return (
        own
        | {"version": str(identity.method_version)}
        | ({"source": identity.source[:8]} if identity.source else {})
    )
