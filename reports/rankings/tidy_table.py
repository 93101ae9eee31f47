"""The tidy table: one row for each dataset, protocol, split, category, method and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.rankings.scores import MEAN, STATES, Counts
from reports.tables import csv_text as names

if TYPE_CHECKING:
    from reports.rankings.ranking import Ranking

COLUMNS = (
    "dataset",
    "category",
    "split",
    "method",
    "protocol",
    "fingerprint",
    "metric",
    "mean",
    "std",
    "seeds",
    "complete",
    "values",
    "status",
    "low",
    "high",
)


def tidy(rankings: Iterable[Ranking]) -> pd.DataFrame:
    """Returns the tidy table, in percent, with the columns :data:`COLUMNS`.

    ``values`` holds for each row a list, one number per seed of the ranking in the order of the seeds,
    ``None`` where there is none; in the rows of means these are the seeds' means over categories. ``low`` and
    ``high`` are the ends of Student's 95 % interval of ``mean`` over seeds.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for ranking in rankings:
        for split in ranking.splits:
            for category in (*ranking.split_categories(split), MEAN):
                _add(columns, ranking, split, category)
    return pd.DataFrame(columns).astype(dict.fromkeys(("mean", "std", "low", "high"), float))


def tidy_csv(table: pd.DataFrame) -> bytes:
    """The table as CSV; the values of seeds stand in one field, ``93.1;92.8``, empty where there is none."""
    rows = table["values"].tolist()
    fields = iter(names.number_fields([value for row in rows for value in row]))
    lists = [";".join(islice(fields, len(row))) for row in rows]
    return names.to_csv(table.assign(values=lists), numbers=("values",))


def _add(columns: dict[str, list[Any]], ranking: Ranking, split: str, category: str) -> None:
    """Adds the rows of a category, or of the mean over categories: methods × metrics."""
    metrics = ranking.metrics(split)
    places = [ranking.grid.column(split, metric) for metric in metrics]
    found, size = ranking.summary(category, split), len(ranking.methods) * len(metrics)

    def flat(array: npt.NDArray[Any]) -> list[Any]:
        return array[:, places].reshape(size, *array.shape[2:]).tolist()  # type: ignore[no-any-return]

    have = flat(found.counts[0])
    complete, status = _told(found.counts[..., places].reshape(len(STATES), size))
    values, lacking = flat(found.per_seed), np.isnan(found.per_seed[:, places]).reshape(size, -1)
    for row in np.flatnonzero(lacking.any(axis=1)).tolist():
        values[row] = [value if value == value else None for value in values[row]]
    rows = {
        "dataset": [ranking.dataset] * size,
        "category": [category] * size,
        "split": [split] * size,
        "method": [method for method in ranking.methods for _ in metrics],
        "protocol": [ranking.fingerprint.protocol] * size,
        "fingerprint": [ranking.name] * size,
        "metric": list(metrics) * len(ranking.methods),
        "mean": flat(found.mean),
        "std": flat(found.std),
        "seeds": have if category != MEAN else [len(ranking.seeds)] * size,
        "complete": complete,
        "values": values,
        "status": status,
        "low": flat(found.low),
        "high": flat(found.high),
    }
    for name, values in rows.items():
        columns[name] += values


def _told(counts: Counts) -> tuple[list[str], list[str]]:
    """Of rows, given how many runs are in each state [states, rows]: ``3 of 5``, and what is missing."""
    wanted = counts.sum(axis=0).tolist()
    complete, status = [f"{want} of {want}" for want in wanted], [""] * len(wanted)
    for row in np.flatnonzero(counts[1:].any(axis=0)).tolist():
        have, *missing = counts[:, row].tolist()
        complete[row], status[row] = f"{have} of {wanted[row]}", _status(missing)
    return complete, status


def _status(missing: Sequence[int]) -> str:
    """What is missing, in words: ``2 failed; 1 not run``."""
    return "; ".join(f"{n} {state}" for n, state in zip(missing, STATES[1:], strict=True) if n)
