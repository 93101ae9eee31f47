"""The page: one self-contained HTML file, readable offline, on a phone, and without JavaScript."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.common.text import visible
from harness.spec.record import KINDS_MEAN, RunRecord
from reports.page.charts import intervals_svg
from reports.page.gallery import Gallery
from reports.page.payload import Payload
from reports.page.sections import identifier, section
from reports.published.compare import Pair
from reports.published.consistency import Audit
from reports.rankings.leaderboard import Leaderboard, selection_gaps
from reports.rankings.statistics import estimate, units

# Above so many runs a page has the main metrics only, and neither curves nor the names of records.
MANY = 20_000
# Failed runs that are named one by one.
_NAMED = 20
_TEMPLATES = Path(__file__).parent / "templates"


def page(
    board: Leaderboard,
    pairs: Sequence[Pair] = (),
    audited: Audit | None = None,
    results: Path | None = None,
    gallery: Gallery | None = None,
) -> str:
    """Returns the whole page as HTML.

    Args:
        board: the measured numbers.
        pairs: published numbers beside measured ones, in a section of their own.
        audited: what is wrong within the published numbers; shown only where there are pairs.
        results: folder of the records, for curves over epochs; without it they are left out.
        gallery: where kept maps and their pictures come from; without it there are none.
    """
    records = [record for ranking in board.rankings for record in ranking.records.values()]
    brief = len(records) > MANY
    payload = Payload(results, brief)
    rankings = []
    for ranking in board.rankings:
        payload.add(identifier(ranking), ranking)
        rankings.append(section(ranking, brief) | {"gallery": gallery.of(ranking) if gallery else None})
    gaps = _gaps(board)
    return _render(
        "index.html.j2",
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),  # noqa: S704
        payload=payload.packed(),
        rankings=rankings,
        questions=_questions(rankings),
        spro=any(KINDS_MEAN in ranking.splits for ranking in board.rankings),
        gaps=gaps,
        gap_chart=_gap_chart(gaps),
        pairs=[{"pair": p, "difference": f"{p.difference:+.1f}"} for p in pairs],
        audited=audited if pairs else None,
        notes=board.notes,
        failures=_failures(records),
        environments=_environments(records),
        citations=sorted({record.citation for record in records if record.citation}),
    )


def contents(
    datasets: Sequence[tuple[str, str, int]], rankings: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> str:
    """Returns the page that leads to the pages of datasets, as HTML.

    Args:
        datasets: the name of each, the address of its page, and how many records it has.
        rankings: their answers, see :func:`reports.page.sections.answered`.
        notes: what a reader must know, in sentences.
    """
    return _render(
        "contents.html.j2",
        datasets=datasets,
        rankings=rankings,
        questions=_questions(rankings),
        notes=notes,
    )


def _render(template: str, **values: Any) -> str:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    return templates.get_template(template).render(
        style=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )


def _questions(rankings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(v["question"] for r in rankings for v in r["verdicts"]))


def _visible(value: Any) -> Any:
    """What the page shows of a value; HTML made here stays as it is."""
    return visible(value) if type(value) is str else value


def _gaps(board: Leaderboard) -> list[dict[str, Any]]:
    """The rows of ``selection_gaps``, with a 95 % interval where there is one."""
    found = []
    for ranking in board.rankings:
        for dataset, method, selected, last, have in selection_gaps(Leaderboard((ranking,), ())):
            gaps = ranking.gaps(method)
            values = None if gaps is None else estimate(units(gaps)[0])
            low, high = (None, None) if values is None else (values.low, values.high)
            sure = low is not None and high is not None
            found.append(
                {
                    "dataset": dataset,
                    "method": method,
                    "selected": selected,
                    "last": last,
                    "gap": None if selected is None or last is None else selected - last,
                    "have": have,
                    "low": float(low) if sure and low is not None else None,
                    "high": float(high) if sure and high is not None else None,
                }
            )
    return found


def _gap_chart(gaps: Sequence[dict[str, Any]]) -> str:
    rows = [
        (f"{g['method']} · {g['dataset']}", g["gap"], g["low"], g["high"])
        for g in gaps
        if g["gap"] is not None
    ]
    return intervals_svg(rows, "Selected minus last epoch, image AUROC in points") if rows else ""


def _failures(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Failed runs, one entry for all that failed in the same words."""
    found: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        if record.failure:
            what = (record.outcome.replace("_", " "), record.failure.headline)
            found.setdefault(what, []).append(record)
    return [
        {
            "outcome": outcome,
            "message": message,
            "labels": [record.spec.label() for record in own[:_NAMED]],
            "more": max(len(own) - _NAMED, 0),
            "text": own[0].failure.traceback or own[0].failure.message if own[0].failure else "",
        }
        for (outcome, message), own in found.items()
    ]


def _environments(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Each distinct machine and software state, and how many runs it made."""
    # Records that come from the cache share them: each is looked at once.
    shared = Counter(id(record.environment) for record in records)
    counts = Counter[str]()
    for place, environment in {id(record.environment): record.environment for record in records}.items():
        counts[json.dumps(environment, sort_keys=True)] += shared[place]
    identities = {id(record.identity): record.identity for record in records}.values()
    weights = sorted({f"{name}: {sha}" for own in identities for name, sha in own.weights.items()})
    found = []
    for text, count in counts.items():
        environment = json.loads(text)
        packages = environment.pop("packages", {})
        flat = {**environment, **packages}
        found.append({"runs": count, "fields": flat, "weights": weights})
    return found
