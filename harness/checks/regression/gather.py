"""Records become cells: what one or several results folders amount to."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.checks.regression.baseline import (
    COSTS,
    SCORES,
    Baseline,
    BaselineCell,
    Hardware,
    Score,
    ScoreName,
)
from harness.common.errors import UserError
from harness.common.text import plain
from harness.results.store import newest, rank, read_records
from harness.spec.record import RunRecord
from harness.spec.run import RunSpec

Slot = tuple[str, str, str, str]
_MIB = 2**20
# Characters of settings that a name has room for; the baseline has all of them as `config`.
_LONG = 48


@dataclass(frozen=True)
class Gathered:
    """What results folders hold.

    Attributes:
        cells: in the order of their names; several of one name where its runs do not belong together, the
            one that counts last.
        failed: what was said by the runs without scores, by slot.
        fingerprints: see :class:`harness.checks.regression.baseline.Baseline`.
        environments: likewise.
        damaged: files that are no records.
    """

    cells: tuple[BaselineCell, ...]
    failed: dict[Slot, list[str]]
    fingerprints: dict[str, dict[str, Any]]
    environments: dict[str, dict[str, Any]]
    damaged: tuple[str, ...]


def gather(folders: Sequence[Path]) -> Gathered:
    """Reads results folders, each a repeat; of several records of one run the newest in a folder counts.

    Raises:
        UserError: one of them does not exist.
    """
    kept: list[RunRecord] = []
    damaged: list[str] = []
    for folder in folders:
        loaded = read_records(folder)
        damaged += [f"{path} {reason}" for path, reason in loaded.damaged]
        kept += newest(loaded.records)
    failed: dict[Slot, list[str]] = defaultdict(list)
    together: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(kept, key=lambda record: record.spec.seed):
        if record.outcome == "ok" and any(_scores([record])):
            together[_belonging(record)].append(record)
        else:
            message = record.failure.headline if record.failure else "no score is defined"
            said = f"seed {record.spec.seed} {record.outcome.replace('_', ' ')}: {message}"
            failed[_slot(record.spec)].append(said)
    used = [record for records in together.values() for record in records]
    # Of cells of one name the one that counts comes last.
    in_order = sorted(together.values(), key=lambda records: max(map(rank, records)))
    cells = sorted((_cell(records) for records in in_order), key=lambda cell: cell.name)
    fingerprints = {record.fingerprint.short(): record.fingerprint.shared() for record in used}
    environments = {baseline_digest(record.environment): record.environment for record in used}
    return Gathered(tuple(cells), dict(failed), fingerprints, environments, tuple(damaged))


def as_baseline(found: Gathered) -> Baseline:
    """Returns what was gathered as a baseline.

    Raises:
        UserError: there is nothing to check against later, or runs of one cell do not belong together.
    """
    if not found.cells:
        raise UserError(
            "The results hold no finished run with scores: there is nothing to make a baseline of."
        )
    for one, other in zip(found.cells, found.cells[1:], strict=False):
        if one.name == other.name:
            why = "; ".join(condition_changes(one, other)) or "two cells of one name"
            raise UserError(
                f"The runs of {plain(one.name)} do not belong together ({why}): run the older ones again by "
                "`bench run --overwrite stale`, or give another results folder."
            )
    return Baseline(
        version=__version__,
        fingerprints=found.fingerprints,
        environments=found.environments,
        cells=list(found.cells),
    )


def incomparable(
    one: BaselineCell, other: BaselineCell, fingerprints: Sequence[dict[str, dict[str, Any]]] = ({}, {})
) -> list[str]:
    """Returns what forbids to compare two cells' scores, in words; nothing where they are comparable."""
    found = []
    if one.fingerprint != other.fingerprint:
        before, after = (
            names.get(c.fingerprint, {}) for names, c in zip(fingerprints, (one, other), strict=True)
        )
        fields = list(_changes("", before, after)) or [f"{one.fingerprint} → {other.fingerprint}"]
        found += [f"protocol fingerprint: {field}" for field in fields]
    found += _changes("weights of ", one.weights, other.weights)
    found += _changes("", {"data": one.data}, {"data": other.data})
    found += _changes("", {"table of defects": one.defects}, {"table of defects": other.defects})
    if one.counts and other.counts:
        found += _changes("number of images: ", one.counts, other.counts)
    return found


def condition_changes(one: BaselineCell, other: BaselineCell) -> list[str]:
    """Returns everything that differs in what two cells are, in words."""
    found = incomparable(one, other)
    fields = {"version of the method": "method_version", "score rule": "score_rule", "source": "source"}
    for words, field in fields.items():
        found += _changes("", {words: getattr(one, field)}, {words: getattr(other, field)})
    return found + list(_changes("default or setting ", one.config, other.config))


def _changes(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key), after.get(key)
        if a != b:
            yield plain(f"{prefix}{key} {_short(a)} → {_short(b)}")


def _short(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)


def _cell(records: list[RunRecord]) -> BaselineCell:
    spec, identity = records[0].spec, records[0].identity
    dataset, category, method, protocol = _slot(spec)
    return BaselineCell(
        dataset=dataset,
        category=category,
        method=method,
        protocol=protocol,
        setup=_setup(spec),
        fingerprint=records[0].fingerprint.short(),
        weights={name: baseline_digest[:16] for name, baseline_digest in identity.weights.items()},
        data=identity.data,
        defects=identity.defects[:16],
        counts=_counts(records[0]),
        method_version=identity.method_version,
        score_rule=identity.score_rule,
        source=identity.source[:16],
        config=identity.config,
        environments=sorted({baseline_digest(record.environment) for record in records}),
        finished=max(record.finished for record in records),
        scores=dict(_scores(records)),
        costs=_costs(records),
    )


def _scores(records: list[RunRecord]) -> Iterator[tuple[ScoreName, Score]]:
    for metric in SCORES:
        seeds: dict[int, list[float]] = defaultdict(list)
        for record in records:
            value = record.metrics.get("all", {}).get(metric)
            if value is not None:
                seeds[record.spec.seed].append(round(100 * value, 4))
        if seeds:
            means = [statistics.fmean(values) for values in seeds.values()]
            spread = round(statistics.stdev(means), 4) if len(means) > 1 else None
            by_seed = {str(seed): sorted(values) for seed, values in sorted(seeds.items())}
            yield metric, Score(mean=round(statistics.fmean(means), 4), spread=spread, seeds=by_seed)


def _costs(records: list[RunRecord]) -> dict[str, Hardware]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in COSTS})
    for record in records:
        costs = found[hardware(record.environment)]
        if times := record.timings:
            # A time of 0 is one that nobody took.
            costs["fit"] += [times.fit] if times.fit else []
            costs["predict"] += [times.predict] if times.predict else []
        # Of an interrupted training only the last process told its peak.
        for place, peak in ({} if record.resumed else record.peak_memory).items():
            if f"memory_{place}" in costs:
                costs[f"memory_{place}"].append(peak / _MIB)
    return {name: Hardware(**{k: _rounded(v) for k, v in costs.items()}) for name, costs in found.items()}


def _rounded(values: Iterable[float]) -> list[float]:
    return sorted(float(f"{value:.4g}") for value in values)


def hardware(environment: dict[str, Any]) -> str:
    """Returns the machine as far as speed depends on it: GPU and CPU, or CPU and number of threads."""
    cpu = environment.get("cpu", "unknown CPU")
    if gpu := environment.get("gpu"):
        return f"{gpu}, {cpu}"
    return f"{cpu}, threads: {environment.get('threads', '?')}"


def _slot(spec: RunSpec) -> Slot:
    base, _, _ = spec.method.partition("[")
    params = ",".join(f"{name}={_value(value)}" for name, value in sorted(spec.params.items()))
    if len(params) > _LONG:
        params = f"{len(spec.params)} settings, {baseline_digest(spec.params)}"
    return (spec.dataset, spec.category, f"{base}[{params}]" if params else base, spec.protocol)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _setup(spec: RunSpec) -> str:
    parts = [f"{spec.image_size} px"] if spec.image_size != 256 else []
    parts += ["native"] if spec.evaluate == "native" else []
    parts += [f"at most {spec.limit_train} training images"] if spec.limit_train is not None else []
    parts += [f"{100 * spec.contamination:g} % anomalous training images"] if spec.contamination else []
    return ", ".join([*parts, *(["random weights"] if spec.backbone_weights == "none" else [])])


def _counts(record: RunRecord) -> dict[str, int]:
    """Images by role; those by kind of anomaly depend on the seed where some were moved."""
    return {role: record.counts[role] for role in ("train", "validation", "test") if role in record.counts}


def _belonging(record: RunRecord) -> str:
    """A name for everything but the seed that decides the numbers of a run, the metrics' version included."""
    spec = record.spec.model_dump(mode="json", exclude={"seed"})
    identity, fingerprint = (part.model_dump(mode="json") for part in (record.identity, record.fingerprint))
    return json.dumps([spec, identity, fingerprint, _counts(record)], sort_keys=True)


def baseline_digest(value: Any) -> str:
    """Returns 8 hexadecimal digits over a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
