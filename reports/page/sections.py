"""A ranking as the page shows it: tables of means, of categories, of what is there, and how sure they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from harness.spec.metrics import METRICS
from harness.spec.names import slug
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import KINDS_MEAN, RunRecord
from reports.page.charts import scatter_svg
from reports.page.critical_difference import critical_difference_svg
from reports.page.verdict import Cost, costs_of, speed_points, verdicts
from reports.rankings.ranking import Cell, Ranking, ranks, split_title
from reports.rankings.scores import MEAN
from reports.rankings.statistics import compare, rank_tests, win_rates


def identifier(ranking: Ranking) -> str:
    """Returns the ``id`` of a ranking's section."""
    return f"{slug(ranking.dataset)}-{slug(ranking.name)}"


def answered(ranking: Ranking, costs: Mapping[str, Cost], page: str = "") -> dict[str, Any]:
    """Returns what a ranking is called, and its answers to which method is best.

    Args:
        ranking: what is shown.
        costs: what the runs of its methods took.
        page: address of the page that its section is on, from the page that shows the answers.
    """
    return {
        "id": identifier(ranking),
        "page": page,
        "dataset": ranking.dataset,
        "protocol": ranking.fingerprint.protocol,
        "name": ranking.name,
        "badges": ranking.badges(),
        "verdicts": verdicts(ranking, costs),
    }


def section(ranking: Ranking, brief: bool) -> dict[str, Any]:
    """Returns everything that a ranking's section shows.

    Args:
        ranking: what is shown.
        brief: whether the page has so many runs that by category it shows image AUROC alone, and in its
            coverage only methods that lack something.
    """
    by_method = ranking.by_method
    costs = costs_of(ranking)
    return answered(ranking, costs) | {
        "about": PROTOCOLS[ranking.fingerprint.protocol].about,
        "fingerprint": ranking.fingerprint.shared(),
        "suites": sorted({r.suite for own in by_method.values() for r in own if r.suite}),
        "remarks": _remarks(by_method),
        "seeds": ranking.seeds,
        "methods": ranking.methods,
        "main": [_main(ranking, split, costs) for split in ranking.splits],
        "scatter": _scatter(ranking, costs),
        "machines": sorted({c.machine for c in costs.values()}),
        "brief": brief,
        "details": [
            _detail(ranking, split, metric)
            for split in ranking.splits
            for metric in METRICS
            if metric in _shown(ranking, split) and not (brief and metric != "image_auroc")
        ],
        "coverage": _coverage(ranking, brief),
    }


def _remarks(by_method: Mapping[str, list[RunRecord]]) -> list[dict[str, Any]]:
    """For each method what it remarks, and which of its settings are not its defaults."""
    found = []
    for method, own in by_method.items():
        sentences = sorted({remark for record in own for remark in record.remarks})
        settings = sorted({f"{k} = {v}" for record in own for k, v in record.spec.params.items()})
        if sentences or settings:
            found.append({"method": method, "remarks": sentences, "settings": settings})
    return found


def _shown(ranking: Ranking, split: str) -> tuple[str, ...]:
    """The metrics of a split that the page shows: the main ones, and sPRO to every limit in its mean."""
    return tuple(m for m in ranking.metrics(split) if "page" in METRICS[m].where or split == KINDS_MEAN)


def _main(ranking: Ranking, split: str, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Methods × metrics, means over categories; incomplete rows stand below, without a rank."""
    shown = _shown(ranking, split)
    columns = {m: ranking.cells(MEAN, split, m) for m in shown}
    places = {m: ranks(cells) for m, cells in columns.items()}
    sure = {m: _sure(ranking, split, m) for m in shown}
    rows: list[dict[str, Any]] = []
    for index, method in enumerate(ranking.methods):
        cells = [_cell(columns[m][index], places[m][index]) | sure[m].get(method, {}) for m in shown]
        first = columns[shown[0]][index].mean
        shown_cost = _cost(costs.get(method)) if split == "all" else []
        rows.append(
            {
                "index": index,
                "method": method,
                "cells": cells,
                "cost": shown_cost,
                "sort": -1.0 if first is None else first,
            }
        )
    rows.sort(key=lambda row: -row["sort"])
    categories = ranking.split_categories(split)
    unit = "categories" if len(categories) > 1 else "seeds" if len(ranking.seeds) > 1 else ""
    return {
        "split": split,
        "title": split_title(split),
        "metrics": [(m, METRICS[m].title) for m in shown],
        "rows": rows,
        "categories": categories,
        "single": not unit,
        "unit": unit if any(sure.values()) else "",
        "ranks": [found for m in shown if (found := _rank_tests(ranking, split, m))],
    }


def _cell(cell: Cell, rank: int) -> dict[str, Any]:
    return {
        "text": cell.text(),
        "rank": rank,
        "missing": cell.mean is None,
        "note": cell.reason if cell.mean is not None else "",
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
        "metric": METRICS[metric].title,
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


def _cost(cost: Cost | None) -> list[str]:
    """Images/s, training time and peak memory for people."""
    if cost is None:
        return ["–", "–", "–"]
    memory = " / ".join(f"{peak / 1e9:.2f} GB {kind}" for kind, peak in cost.peaks.items())
    speed = "–" if cost.speed is None else f"{cost.speed:.1f}"
    return [speed, "–" if cost.fit is None else f"{cost.fit:.0f} s", memory or "–"]


def _scatter(ranking: Ranking, costs: Mapping[str, Cost]) -> str:
    points = speed_points(ranking, costs)
    return scatter_svg(points, "Images per second (more is faster)", "Image AUROC in %") if points else ""


def _detail(ranking: Ranking, split: str, metric: str) -> dict[str, Any]:
    """Methods × categories, the mean first."""
    categories = (MEAN, *ranking.split_categories(split))
    columns = []
    for category in categories:
        cells = ranking.cells(category, split, metric)
        columns.append([_cell(c, rank) for c, rank in zip(cells, ranks(cells), strict=True)])
    title = METRICS[metric].title if split == "all" else f"{METRICS[metric].title}, {split_title(split)}"
    rows = [
        {"index": m, "method": method, "cells": [column[m] for column in columns]}
        for m, method in enumerate(ranking.methods)
    ]
    places = [-1, *(ranking.categories.index(c) for c in categories[1:])]
    return {
        "title": title,
        "split": split,
        "metric": metric,
        "categories": list(zip(places, categories, strict=True)),
        "rows": rows,
    }


def _coverage(ranking: Ranking, brief: bool) -> dict[str, Any]:
    """How many seeds of each method and category are done, and what became of the others."""
    rows, done = [], 0
    for method in ranking.methods:
        cells = []
        for category in ranking.categories:
            outcomes = Counter[str]()
            for seed in ranking.seeds:
                record = ranking.records.get((method, category, seed))
                outcomes["not run" if record is None else record.outcome.replace("_", " ")] += 1
            done += outcomes["ok"]
            others = ", ".join(f"{n} {what}" for what, n in outcomes.items() if what != "ok")
            cells.append(
                {
                    "text": f"{outcomes['ok']} of {len(ranking.seeds)}",
                    "others": others,
                    "state": "ok" if not others else "part" if outcomes["ok"] else "none",
                }
            )
        if not brief or any(cell["others"] for cell in cells):
            rows.append({"method": method, "cells": cells})
    wanted = len(ranking.methods) * len(ranking.categories) * len(ranking.seeds)
    return {"rows": rows, "categories": ranking.categories, "done": done, "wanted": wanted}
