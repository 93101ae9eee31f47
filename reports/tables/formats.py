"""The leaderboard as JSON, Markdown and Parquet, and which formats there are."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping

import pandas as pd

from harness.common.errors import UserError
from harness.common.text import visible
from harness.spec.metrics import METRICS
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Ranking, ranks, split_title
from reports.rankings.scores import MEAN

# What each format writes into the folder of the report.
FORMATS: Mapping[str, str] = {
    "csv": "leaderboard.csv",
    "html": "index.html",
    "json": "leaderboard.json",
    "latex": "tables",
    "markdown": "leaderboard.md",
    "parquet": "leaderboard.parquet",
}
# What Markdown, HTML within it, or GitHub might take for more than text.
_ACTIVE = frozenset("\\`*_[]<>&|~#!@:$")


def asked(text: str) -> frozenset[str]:
    """Returns the formats named in ``csv,html``.

    Raises:
        UserError: there is no such format, none is named, or it needs a package that is not there.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found or [""]:
        if name not in FORMATS:
            raise UserError(f"There is no format '{name}' of a report: there are {', '.join(FORMATS)}.")
    if "parquet" in found and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "Parquet needs pyarrow: pip install 'ulsad-bench[parquet]', or leave parquet out of --format."
        )
    return frozenset(found)


def to_json(table: pd.DataFrame) -> bytes:
    """The tidy table as a list of objects, one a line, in percent; ``null`` where there is no number."""
    columns = [
        [None if value != value else value for value in table[name].tolist()] for name in table.columns
    ]
    rows = (dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True))
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def to_parquet(table: pd.DataFrame) -> bytes:
    """The tidy table as Parquet; ``values`` is a column of lists."""
    out = io.BytesIO()
    table.to_parquet(out, engine="pyarrow", index=False)
    return out.getvalue()


def to_markdown(board: Leaderboard) -> str:
    """A table of means over categories for each ranking and split, the best in bold; then the notes."""
    parts = ["# Leaderboard"]
    for ranking in board.rankings:
        badges = "".join(f" · **{_text(badge).upper()}**" for badge in ranking.badges())
        parts.append(f"## {_text(ranking.dataset)} · {_text(ranking.name)}{badges}")
        for split in (split for split in ranking.splits if ranking.metrics(split)):
            title = "" if split == "all" else f", {_text(split_title(split))}"
            parts += [f"Means over categories{title}, in percent:", _table(ranking, split)]
    if board.notes:
        parts += ["## Notes", "\n".join(f"- {_text(note)}" for note in board.notes)]
    return "\n\n".join(parts) + "\n"


def _table(ranking: Ranking, split: str) -> str:
    """Methods × metrics, as ranked by the first metric; what has no number stands below."""
    metrics = ranking.metrics(split)
    columns = [ranking.cells(MEAN, split, metric) for metric in metrics]
    places = [ranks(cells) for cells in columns]
    texts = [
        [f"**{cell.text()}**" if place == 1 else _text(cell.text()) for cell, place in zip(c, p, strict=True)]
        for c, p in zip(columns, places, strict=True)
    ]
    rows = [
        (cell.mean, f"| {_text(method)} | {' | '.join(row)} |")
        for method, cell, row in zip(ranking.methods, columns[0], zip(*texts, strict=True), strict=True)
    ]
    rows.sort(key=lambda row: (row[0] is None, -(row[0] or 0.0)))
    head = f"| method | {' | '.join(_text(METRICS[metric].title) for metric in metrics)} |"
    return "\n".join([head, "|---|" + "---:|" * len(metrics), *(row for _, row in rows)])


def _text(text: str) -> str:
    """Text in one line that Markdown shows as it is."""
    line = " ".join(visible(text).split())
    shown = "".join(f"\\{c}" if c in _ACTIVE else c for c in line)
    # GitHub makes links of addresses without brackets.
    return shown.replace("www.", "www\\.").replace("WWW.", "WWW\\.")
