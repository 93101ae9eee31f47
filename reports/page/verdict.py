"""The first screen: which method is best, for what, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.spec.metrics import METRICS
from harness.spec.record import KINDS_MEAN, RunRecord
from reports.page.charts import Point
from reports.rankings.ranking import Ranking
from reports.rankings.scores import MEAN
from reports.rankings.statistics import compare

# A question, and the split and metric that answer it.
_SCORES = (
    ("Detection", "all", "image_auroc"),
    ("Structural anomalies", "structural", "image_auroc"),
    ("Logical anomalies", "logical", "image_auroc"),
    ("Localisation", "all", "aupro"),
    ("Official LOCO score", KINDS_MEAN, "spro_0.05"),
)


@dataclass(frozen=True)
class Cost:
    """What a method's runs in one ranking took.

    Attributes:
        speed: median images per second, in batches; ``None`` where nothing was measured.
        fit: median training time in seconds, likewise.
        peaks: largest peak in bytes on the ``device`` and the ``host``, where measured.
        machine: where it ran.
    """

    speed: float | None
    fit: float | None
    peaks: Mapping[str, int]
    machine: str


def cost(records: Sequence[RunRecord]) -> Cost | None:
    """Returns what the runs took, ``None`` where nothing was timed."""
    timed = [record for record in records if record.timings]
    if not timed:
        return None
    peaks = {
        kind: max(own)
        for kind in ("device", "host")
        if (own := [r.peak_memory[kind] for r in timed if kind in r.peak_memory])
    }
    machines = sorted({machine(record) for record in timed})
    times = [record.timings for record in records if record.timings]
    speeds = [speed for own in times if (speed := own.speed) is not None]
    fits = [fitted for own in times if (fitted := own.fitted) is not None]
    return Cost(
        statistics.median(speeds) if speeds else None,
        statistics.median(fits) if fits else None,
        peaks,
        " + ".join(machines),
    )


def costs_of(ranking: Ranking) -> dict[str, Cost]:
    """Returns what the runs of each method took, where something was timed."""
    return {method: found for method, own in ranking.by_method.items() if (found := cost(own))}


def speed_points(ranking: Ranking, costs: Mapping[str, Cost]) -> list[Point]:
    """Returns images per second and mean image AUROC of the complete methods.

    Nothing for fewer than two, or where machines differ: then speeds cannot be compared.
    """
    points = []
    for method, own in costs.items():
        mean = ranking.cell(method, MEAN, "all", "image_auroc").mean
        if mean is not None and own.speed is not None:
            points.append(Point(method, own.speed, mean))
    return points if len(points) > 1 and len({c.machine for c in costs.values()}) == 1 else []


def machine(record: RunRecord) -> str:
    """Names what a run was computed on, as far as the record tells."""
    environment = record.environment
    return str(environment.get("gpu") or environment.get("cpu") or "unknown hardware")


def verdicts(ranking: Ranking, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """Answers for one ranking: a question, who is best, the number, and how sure that is."""
    found = []
    for question, split, metric in _SCORES:
        if split in ranking.splits and metric in ranking.metrics(split):
            answer = _best(ranking, split, metric)
            found.append({"question": question, "what": METRICS[metric].title} | answer)
    if len({c.machine for c in costs.values()}) > 1 or len(costs) < 2:
        return found
    # Where no method has every run, what each has measured is all there is to say.
    whole = {method: own for method, own in costs.items() if _complete(ranking, method)} or dict(costs)
    left = len(costs) - len(whole)
    partial = f"; {left} incomplete not counted" if left else ""
    measured = {method: own.speed for method, own in whole.items() if own.speed is not None}
    if len(measured) == len(whole):
        speeds = {method: f"{speed:.1f}" for method, speed in measured.items()}
        fastest = max(measured, key=lambda name: measured[name])
        said = f"median of its runs, one machine{partial}"
        found.append(_answer("Speed", "Images/s", fastest, speeds, said))
    for kind, label in (("device", "GPU memory"), ("host", "Memory")):
        if all(kind in own.peaks for own in whole.values()):
            peaks = {method: f"{own.peaks[kind] / 1e9:.2f} GB" for method, own in whole.items()}
            least = min(whole, key=lambda name, kind=kind: whole[name].peaks[kind])  # type: ignore[misc]
            found.append(_answer(label, "Peak", least, peaks, f"largest peak of its runs{partial}"))
            break
    return found


def _complete(ranking: Ranking, method: str) -> bool:
    done = sum(record.outcome == "ok" for record in ranking.by_method[method])
    return done == len(ranking.categories) * len(ranking.seeds)


def _best(ranking: Ranking, split: str, metric: str) -> dict[str, Any]:
    cells = {method: ranking.cell(method, MEAN, split, metric) for method in ranking.methods}
    means = {m: c.mean for m, c in cells.items() if c.mean is not None}
    if not means:
        return {"methods": [], "value": "–", "sure": "no method has every run"}
    best = max(means, key=lambda name: means[name])
    first = [m for m in means if cells[m].text() == cells[best].text()]
    left = len(cells) - len(means)
    partial = f"; {left} incomplete not counted" if left else ""
    if len(means) == 1:
        return {"methods": first, "value": cells[best].text(), "sure": f"the only complete method{partial}"}
    methods, scores = ranking.scores(split, metric)
    found = compare(scores)
    if found is None or found.estimate.low is None:
        return {"methods": first, "value": cells[best].text(), "sure": f"one run each: not tested{partial}"}
    others = [m for m, tied in zip(methods, found.tied, strict=True) if tied and m not in first]
    if not others:
        sure = "ahead of all others at 95 %"
    elif len(others) <= 3:
        sure = f"statistically tied with {', '.join(others)}"
    else:
        sure = f"statistically tied with {len(others)} others"
    return {"methods": first, "value": cells[best].text(), "sure": sure + partial}


def _answer(question: str, what: str, best: str, texts: Mapping[str, str], sure: str) -> dict[str, Any]:
    """An answer with every method that is printed like the best one."""
    methods = [method for method, text in texts.items() if text == texts[best]]
    return {"question": question, "what": what, "methods": methods, "value": texts[best], "sure": sure}
