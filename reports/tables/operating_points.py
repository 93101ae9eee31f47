"""Operating points for the tidy files and for the page: thresholds, and what they do on the test set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from harness.spec.operating_points import Operating, Rate
from harness.spec.record import RunRecord
from reports.rankings.ranking import Ranking
from reports.tables.csv_text import to_csv

COLUMNS = (
    *("dataset", "category", "split", "method", "protocol", "fingerprint", "seed", "rule", "target"),
    *("threshold", "validation", "false_alarms", "false_alarms_low", "false_alarms_high"),
    *("recall", "recall_low", "recall_high", "fpr_at_95", "fpr_at_99", "note"),
)


def operating_csv(rankings: Iterable[Ranking]) -> bytes | None:
    """Returns a row for each run, split and threshold as CSV, in percent; ``None`` where there is none."""
    rows = [
        [
            *(ranking.dataset, category, split, method, ranking.fingerprint.protocol, ranking.name, seed),
            *row,
        ]
        for ranking in rankings
        for (method, category, seed), record in ranking.records.items()
        for split, row in _rows(record)
    ]
    if not rows:
        return None
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return to_csv(table.astype(dict.fromkeys(COLUMNS[13:19], float)))


def _rows(record: RunRecord) -> Iterable[tuple[str, list[Any]]]:
    found = record.operating
    for threshold in found.thresholds if found else ():
        assert found is not None and threshold.target is not None  # noqa: S101 - narrows the types
        alarms = _percent(found.rate(threshold, "normal"))
        for split in splits_of(found):
            fpr = [_times_100(found.fpr.get(split, {}).get(recall)) for recall in ("0.95", "0.99")]
            head = [threshold.rule, 100 * threshold.target, threshold.value, found.validation]
            rates = [*alarms, *_percent(found.rate(threshold, split))]
            yield split, [*head, *rates, *fpr, "; ".join(found.left_out)]


def splits_of(operating: Operating) -> list[str]:
    """Returns the groups of anomalous images that have thresholds."""
    return [group for group in operating.images if group != "normal"]


def _percent(rate: Rate | None) -> list[float | None]:
    return [None] * 3 if rate is None else [100 * rate.value, 100 * rate.low, 100 * rate.high]


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value
