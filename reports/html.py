"""The page: one self-contained HTML file, readable offline, on a phone, and without JavaScript."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from harness.spec import KINDS_MEAN, PROTOCOLS, RunRecord, slug
from reports.audit import Audit
from reports.compare import Pair
from reports.figures import critical_difference_svg
from reports.latex import ranks
from reports.leaderboard import MEAN, METRICS, Leaderboard, Ranking, selection_gaps, split_title
from reports.names import visible
from reports.statistics import compare, estimate, rank_tests, units, win_rates

MAIN = ("image_auroc", "pixel_auroc", "aupro", "spro_0.05")


def page(board: Leaderboard, pairs: Sequence[Pair] = (), audited: Audit | None = None) -> str:
    """Returns the whole page as HTML.

    Args:
        board: the measured numbers.
        pairs: published numbers beside measured ones, in a section of their own.
        audited: what is wrong within the published numbers; shown only where there are pairs.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    records = [record for ranking in board.rankings for record in ranking.records.values()]
    citations = sorted({record.citation for record in records if record.citation})
    return templates.get_template("index.html.j2").render(
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rankings=[_ranking(ranking) for ranking in board.rankings],
        spro=any(KINDS_MEAN in ranking.splits for ranking in board.rankings),
        gaps=_gaps(board),
        pairs=[{"pair": p, "difference": f"{p.difference:+.1f}"} for p in pairs],
        audited=audited if pairs else None,
        notes=board.notes,
        failures=[
            {"label": r.spec.label(), "outcome": r.outcome.replace("_", " "), "failure": r.failure}
            for r in records
            if r.failure
        ],
        environments=_environments(records),
        citations=citations,
    )


def _visible(value: Any) -> Any:
    """What the page shows of a value; HTML made here stays as it is."""
    return visible(value) if type(value) is str else value


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "id": f"{slug(ranking.dataset)}-{slug(ranking.name)}",
        "dataset": ranking.dataset,
        "name": ranking.name,
        "about": PROTOCOLS[ranking.fingerprint.protocol].about,
        "fingerprint": ranking.fingerprint.model_dump(),
        "badges": ranking.badges(),
        "suites": sorted({record.suite for record in ranking.records.values() if record.suite}),
        "remarks": _remarks(ranking),
        "seeds": ranking.seeds,
        "main": [_main(ranking, split) for split in ranking.splits],
        "details": [
            _detail(ranking, split, metric)
            for metric in METRICS
            for split in ranking.splits
            if metric in _shown(ranking, split)
        ],
    }


def _remarks(ranking: Ranking) -> list[dict[str, Any]]:
    """For each method what it remarks, and which of its settings are not its defaults."""
    found = []
    for method in ranking.methods:
        own = [record for (name, _, _), record in ranking.records.items() if name == method]
        sentences = sorted({remark for record in own for remark in record.remarks})
        settings = sorted({f"{k} = {v}" for record in own for k, v in record.spec.params.items()})
        if sentences or settings:
            found.append({"method": method, "remarks": sentences, "settings": settings})
    return found


def _shown(ranking: Ranking, split: str) -> tuple[str, ...]:
    """The metrics of a split that the page shows: the main ones, and sPRO to every limit in its mean."""
    return tuple(m for m in ranking.metrics(split) if m in MAIN or split == KINDS_MEAN)


def _main(ranking: Ranking, split: str) -> dict[str, Any]:
    """Methods × metrics, means over categories; incomplete rows stand below, without a rank."""
    shown = _shown(ranking, split)
    columns = {m: [ranking.cell(method, MEAN, split, m) for method in ranking.methods] for m in shown}
    places = {m: ranks(cells) for m, cells in columns.items()}
    sure = {m: _sure(ranking, split, m) for m in shown}
    rows: list[dict[str, Any]] = []
    for index, method in enumerate(ranking.methods):
        cells = [
            {
                "text": columns[m][index].text(),
                "rank": places[m][index],
                "missing": columns[m][index].mean is None,
            }
            | sure[m].get(method, {})
            for m in shown
        ]
        first = columns[shown[0]][index].mean
        own = [record for (name, _, _), record in ranking.records.items() if name == method]
        rows.append(
            {"method": method, "cells": cells, "cost": _cost(own), "sort": -1.0 if first is None else first}
        )
    rows.sort(key=lambda row: -row["sort"])
    categories = ranking.split_categories(split)
    unit = "categories" if len(categories) > 1 else "seeds" if len(ranking.seeds) > 1 else ""
    return {
        "split": split,
        "title": split_title(split),
        "metrics": [METRICS[m] for m in shown],
        "rows": rows,
        "categories": categories,
        "single": not unit,
        "unit": unit if any(sure.values()) else "",
        "ranks": [found for m in shown if (found := _rank_tests(ranking, split, m))],
    }


def _sure(ranking: Ranking, split: str, metric: str) -> dict[str, dict[str, Any]]:
    """For each complete method its interval and rank range; all that tie with the best are marked as best."""
    methods, scores = ranking.scores(split, metric)
    found = compare(scores) if methods else None
    if found is None or found.estimate.low is None or found.estimate.high is None:
        return {}
    shown = {}
    for m, method in enumerate(methods):
        low, high = (min(max(float(v[m]), 0), 100) for v in (found.estimate.low, found.estimate.high))
        first, last = found.ranks[m]
        place = f"rank {first}" if first == last else f"rank {first}–{last}"
        shown[method] = {"interval": f"{low:.1f} to {high:.1f}", "place": place, "rank": int(found.tied[m])}
    return shown


def _rank_tests(ranking: Ranking, split: str, metric: str) -> dict[str, Any] | None:
    """Average ranks, their diagram and win rates; ``None`` below three methods or categories."""
    methods, scores = ranking.scores(split, metric)
    found = rank_tests(scores)
    if found is None:
        return None
    return {
        "metric": METRICS[metric],
        "friedman": "below 0.001" if found.friedman < 0.001 else f"{found.friedman:.3f}",
        "critical": f"{found.critical:.2f}",
        "apart": [
            f"{methods[a]} and {methods[b]}"
            for a in range(len(methods))
            for b in range(a + 1, len(methods))
            if found.wilcoxon[a, b] < 0.05
        ],
        "svg": critical_difference_svg(methods, [float(r) for r in found.average], found.critical),
        "methods": methods,
        "wins": [
            {
                "method": m,
                "average": f"{r:.2f}",
                "rates": ["–" if m == o else f"{100 * w:.0f}" for o, w in zip(methods, row, strict=True)],
            }
            for m, r, row in zip(methods, found.average, win_rates(scores), strict=True)
        ],
    }


def _gaps(board: Leaderboard) -> list[dict[str, str]]:
    """The rows of ``selection_gaps`` as text, with a 95 % interval where every run has both epochs."""
    found = []
    for ranking in board.rankings:
        for dataset, method, selected, last in selection_gaps(Leaderboard((ranking,), ())):
            gaps = ranking.gaps(method)
            values = None if gaps is None else estimate(units(gaps)[0])
            low, high = (None, None) if values is None else (values.low, values.high)
            interval = "" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
            found.append(
                {
                    "dataset": dataset,
                    "method": method,
                    "selected": f"{selected:.1f}",
                    "last": f"{last:.1f}",
                    "gap": f"{selected - last:+.1f}",
                    "interval": interval,
                }
            )
    return found


def _cost(records: list[RunRecord]) -> list[str]:
    """Median images/s, median training time and largest peak memory of a method's runs."""
    timed = [record.timings for record in records if record.timings]
    if not timed:
        return ["–", "–", "–"]
    peaks = {
        kind: [r.peak_memory[kind] for r in records if kind in r.peak_memory] for kind in ("device", "host")
    }
    memory = " / ".join(f"{max(values) / 1e9:.2f} GB {kind}" for kind, values in peaks.items() if values)
    speed = statistics.median(t.images_per_second for t in timed)
    return [f"{speed:.1f}", f"{statistics.median(t.fit for t in timed):.0f} s", memory or "–"]


def _detail(ranking: Ranking, split: str, metric: str) -> dict[str, Any]:
    rows = []
    for category in (*ranking.split_categories(split), MEAN):
        cells = [ranking.cell(method, category, split, metric) for method in ranking.methods]
        rows.append(
            {
                "category": category,
                "cells": [
                    {
                        "text": c.text(),
                        "rank": rank,
                        "missing": c.mean is None,
                        "note": c.reason if c.mean is not None else "",
                    }
                    for c, rank in zip(cells, ranks(cells), strict=True)
                ],
            }
        )
    title = METRICS[metric] if split == "all" else f"{METRICS[metric]}, {split_title(split)}"
    return {"title": title, "methods": ranking.methods, "rows": rows}


def _environments(records: list[RunRecord]) -> list[dict[str, Any]]:
    """Each distinct machine and software state, and how many runs it made."""
    counts: dict[str, int] = {}
    for record in records:
        text = json.dumps(record.environment, sort_keys=True)
        counts[text] = counts.get(text, 0) + 1
    weights = sorted({f"{name}: {sha}" for r in records for name, sha in r.identity.weights.items()})
    found = []
    for text, count in counts.items():
        environment = json.loads(text)
        packages = environment.pop("packages", {})
        flat = {**environment, **packages}
        found.append({"runs": count, "fields": flat, "weights": weights})
    return found
