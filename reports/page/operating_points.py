"""Operating points as the page shows them."""

from __future__ import annotations

from typing import Any

from harness.common.text import visible
from harness.spec.operating_points import Operating
from reports.tables.operating_points import splits_of


def operating_payload(operating: Operating) -> dict[str, Any]:
    """Returns what the page shows of a run behind its cell, in words.

    Returns:
        ``rows``: of each threshold its name, value, false alarms, and recall by split; ``fpr``: by split, at
        95 and at 99 % recall; ``notes``; ``validation``: how many normal images the thresholds are from.
    """
    rows = []
    for threshold in operating.thresholds:
        alarms = operating.rate(threshold, "normal")
        rates = {split: operating.rate(threshold, split) for split in splits_of(operating)}
        recall = {split: rate.text() for split, rate in rates.items() if rate}
        rows.append(
            [threshold.name, f"{threshold.value:.5g}", alarms.text() if alarms else "–", recall],
        )
    fpr = {
        visible(split): [f"{100 * values[recall]:.1f} %" for recall in ("0.95", "0.99")]
        for split, values in operating.fpr.items()
    }
    notes = [visible(note) for note in operating.left_out]
    return {"rows": rows, "fpr": fpr, "notes": notes, "validation": operating.validation}
