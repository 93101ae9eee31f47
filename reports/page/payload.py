"""What the page's script knows of each run: packed columns, so that 100,000 runs fit a page.

One JSON text, compressed by zlib, in base64. Of each ranking there are flat columns over
``(method, category, seed)`` in that order, with ``null`` where there is no run; half-widths of intervals
over ``(method, category)``; means and their intervals by method.
"""

from __future__ import annotations

import base64
import json
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.common.text import visible
from harness.results.store import Damaged, Folder, record_path
from harness.spec.metrics import TITLES, shown
from harness.spec.names import slug
from harness.spec.record import RunRecord
from harness.spec.run import RunSpec
from reports.page.operating_points import operating_payload as operating
from reports.rankings.ranking import Ranking
from reports.rankings.statistics import estimate, units

# Curves are read from the records themselves, which takes time, and take most of the space.
_CURVES = 1_000
_POINTS = 60
_OUTCOMES = ("ok", "failed", "out_of_memory", "timeout")


class Payload:
    """Collects what the script needs, ranking by ranking."""

    def __init__(self, results: Path | None, brief: bool) -> None:
        self._folder, self._brief = Folder(results) if results else None, brief
        self._environments: dict[str, int] = {}
        self._places: dict[int, int] = {}
        self._failures: dict[str, int] = {}
        self._rankings: dict[str, Any] = {}
        self._curves = 0

    def add(self, name: str, ranking: Ranking) -> None:
        """Adds a ranking under the ``id`` of its section."""
        runs = [
            ranking.records.get((method, category, seed))
            for method in ranking.methods
            for category in ranking.categories
            for seed in ranking.seeds
        ]
        names = shown("page" if self._brief else "cell")
        metrics = {split: [m for m in ranking.metrics(split) if m in names] for split in ranking.splits}
        values = {
            split: {
                metric: _hundredths(ranking.grid.values[..., ranking.grid.column(split, metric)])
                for metric in own
            }
            for split, own in metrics.items()
        }
        timed = [run.timings if run else None for run in runs]
        self._rankings[name] = {
            "dataset": visible(ranking.dataset),
            "methods": [visible(m) for m in ranking.methods],
            "categories": [visible(c) for c in ranking.categories],
            "seeds": list(ranking.seeds),
            "values": values,
            "half": {split: _half_widths(ranking, split, own) for split, own in metrics.items()},
            "counted": {split: len(ranking.split_categories(split)) for split in metrics},
            "means": {split: {m: _means(ranking, split, m) for m in own} for split, own in metrics.items()},
            "outcome": "".join("-" if r is None else str(_OUTCOMES.index(r.outcome)) for r in runs),
            "file": [str(record_path(Path(), r.spec, r.key)) if r else None for r in runs]
            if not self._brief
            else None,
            "folder": [[slug(c) for c in ranking.categories], _folders(ranking)],
            "fit": [_short(t.fitted) if t and t.fitted else None for t in timed],
            "speed": [_short(t.speed) if t and t.speed else None for t in timed],
            "memory": [_memory(r) for r in runs],
            "epoch": _sparse(r.selected_epoch if r else None for r in runs),
            "environment": [self._environment(r) for r in runs],
            "failure": {i: self._failure(r) for i, r in enumerate(runs) if r and r.failure},
            "curve": self._some_curves(runs),
            "line": self._line(runs),
            "origin": {}
            if self._brief
            else {i: found for i, r in enumerate(runs) if r and (found := _origin(r))},
            "command": _commands(ranking),
            "fingerprint": _text(ranking.fingerprint.shared()),
        }

    def packed(self) -> str:
        """Returns everything as base64."""
        content = {
            "metrics": dict(TITLES),
            "rankings": self._rankings,
            "environments": list(self._environments),
            "failures": list(self._failures),
        }
        text = json.dumps(content, separators=(",", ":"))
        return base64.b64encode(zlib.compress(text.encode(), 9)).decode()

    def _environment(self, record: RunRecord | None) -> int | None:
        if record is None:
            return None
        # Records that come from the cache share it: each is put in words once.
        place = self._places.get(id(record.environment))
        if place is None:
            environment = dict(record.environment)
            packages = environment.pop("packages", {})
            text = _text(environment | (packages if isinstance(packages, dict) else {}))
            place = self._environments.setdefault(text, len(self._environments))
            self._places[id(record.environment)] = place
        return place

    def _failure(self, record: RunRecord) -> int:
        assert record.failure is not None  # noqa: S101 (only failed runs are asked)
        text = visible(record.failure.traceback or record.failure.message)
        return self._failures.setdefault(text[-4000:], len(self._failures))

    def _line(self, runs: list[RunRecord | None]) -> dict[int, Any]:
        """Thresholds of runs by index; none where there are too many runs."""
        if self._brief:
            return {}
        return {i: operating(run.operating) for i, run in enumerate(runs) if run and run.operating}

    def _some_curves(self, runs: list[RunRecord | None]) -> dict[int, Any]:
        """Epochs of runs by index: ``{"epochs": [...], "series": {name: [...]}}``."""
        if self._brief or self._folder is None:
            return {}
        eligible = (
            (index, record_path(Path(), run.spec, run.key).as_posix())
            for index, run in enumerate(runs)
            if run is not None and run.outcome == "ok" and run.selected_epoch is not None
        )
        chosen = islice(eligible, _CURVES - self._curves)
        found: dict[int, Any] = {}
        # Compacted records are read quickest in the order of their names.
        for index, name in sorted(chosen, key=itemgetter(1)):
            record = self._folder.record(name)
            if not isinstance(record, Damaged) and len(record.epochs) > 1:
                found[index] = _curve(record)
        self._curves += len(found)
        return dict(sorted(found.items()))


def command(spec: RunSpec) -> str:
    """Returns the command that does a run again, with ``{category}`` and ``{seed}`` left open."""
    base, _, brackets = spec.method.partition("[")
    private = ".py:" in base
    typed = f"path/to/{spec.method}" if private else spec.method
    parts = ["bench run --methods", shlex.quote(typed), "--datasets", shlex.quote(spec.dataset)]
    parts += ["--categories {category} --seeds {seed} --protocol", spec.protocol]
    parts += ["--image-size", str(spec.image_size)]
    named = {item.partition("=")[0].strip() for item in brackets.rstrip("]").split(",")}
    for name, value in spec.params.items():
        if name not in named:
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
            parts += ["--set", shlex.quote(f"{base}.{name}={text}")]
    if spec.contamination:
        parts += ["--contamination", f"{spec.contamination:g}"]
    if spec.limit_train is not None:
        parts += ["--limit-train", str(spec.limit_train)]
    if spec.backbone_weights != "pretrained":
        parts += ["--backbone-weights", spec.backbone_weights]
    if spec.evaluate != "input":
        parts += ["--evaluate", spec.evaluate]
    return visible(" ".join(parts))


def _commands(ranking: Ranking) -> dict[str, str]:
    return {visible(method): command(own[0].spec) for method, own in ranking.by_method.items()}


def _half_widths(ranking: Ranking, split: str, metrics: Sequence[str]) -> dict[str, list[int | None]]:
    """Half of the 95 % interval over the seeds, of each method and category (``scores.Summary``)."""
    found = [ranking.summary(category, split) for category in ranking.categories]
    halves = np.stack([(summary.high - summary.low) / 2 for summary in found], axis=1)
    return {m: _hundredths(halves[..., ranking.grid.column(split, m)]) for m in metrics}


def _means(ranking: Ranking, split: str, metric: str) -> list[list[int | None] | None]:
    """Of each method the mean over categories and the ends of its 95 % interval, if every run is there."""
    methods, scores = ranking.scores(split, metric)
    if not methods:
        return [None] * len(ranking.methods)
    found = estimate(units(scores))
    low, high = (np.full_like(found.mean, np.nan) if end is None else end for end in (found.low, found.high))
    ends = np.stack([found.mean, np.clip(low, 0, 100), np.clip(high, 0, 100)], axis=1)
    own = {method: _hundredths(row) for method, row in zip(methods, ends, strict=True)}
    return [own.get(method) for method in ranking.methods]


def _hundredths(percent: npt.NDArray[np.float64]) -> list[int | None]:
    """Values of all runs in hundredths of a percent."""
    flat = percent.ravel()
    missing = np.isnan(flat)
    found: list[int | None] = np.rint(100 * np.where(missing, 0, flat)).astype(np.int64).tolist()
    for place in np.flatnonzero(missing).tolist():
        found[place] = None
    return found


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _memory(record: RunRecord | None) -> float | None:
    """GB on the device where there is one, else on the host."""
    peaks = record.peak_memory if record else {}
    peak = peaks.get("device", peaks.get("host"))
    return None if peak is None else _short(peak / 1e9)


def _sparse(values: Iterable[int | None]) -> list[int | None]:
    found = list(values)
    return found if any(value is not None for value in found) else []


def _origin(record: RunRecord) -> str:
    """What a record's numbers are from, where not from a run of its own; in a few words."""
    found = [f"parts of {record.made_from}"] if record.made_from else []
    return "; ".join([*found, *([f"its maps, {record.rescored[:10]}"] if record.rescored else [])])


def _folders(ranking: Ranking) -> list[str]:
    """The folder's name of each method's records."""
    return [slug(own[0].spec.method) for own in ranking.by_method.values()]


def _curve(record: RunRecord) -> dict[str, Any]:
    step = -(-len(record.epochs) // _POINTS)
    logs = [log for i, log in enumerate(record.epochs) if i % step == 0 or i == len(record.epochs) - 1]
    series: dict[str, list[float | None]] = {}
    for name in logs[0].losses:
        series[visible(name)] = [
            float(f"{log.losses[name]:.4g}") if name in log.losses else None for log in logs
        ]
    tests = [None if log.test_image_auroc is None else round(100 * log.test_image_auroc, 2) for log in logs]
    return {"epochs": [log.number for log in logs], "series": series} | (
        {"test": tests} if any(t is not None for t in tests) else {}
    )


def _text(fields: Mapping[str, Any]) -> str:
    return visible("\n".join(f"{key}: {value}" for key, value in fields.items()))
