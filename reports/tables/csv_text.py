"""Names that others chose, made harmless where they are shown: control characters, formulas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from pydantic_core import to_json

from harness.common.text import cell


def to_csv(table: pd.DataFrame, numbers: Collection[str] = ()) -> bytes:
    """A table as CSV, its text columns harmless.

    Args:
        table: what to write.
        numbers: columns that hold numbers as text, written as they are.
    """
    columns = [_fields(table[name], name in numbers) for name in table.columns]
    # Python's writer takes three times as long, and there may be half a million rows.
    lines = [",".join(map(_quoted, table.columns)), *map(",".join, zip(*columns, strict=True))]
    return ("\n".join(lines) + "\n").encode()


def _fields(column: pd.Series[Any], numbers: bool) -> list[str]:
    """The fields of a column; empty where there is nothing."""
    values = column.tolist()
    if numbers:
        return [_plain(value) for value in values]
    if pd.api.types.is_numeric_dtype(column):
        return number_fields(values)
    # Names repeat: each is looked through once.
    told = {v: _quoted(cell(v)) if isinstance(v, str) else _plain(v) for v in set(values)}
    return [told[value] for value in values]


def number_fields(values: Sequence[float | None]) -> list[str]:
    """Numbers as the shortest text that gives them back, empty where there is none."""
    # Many times faster than repr, which takes seconds for a few million numbers.
    text = to_json(values, inf_nan_mode="null").decode()[1:-1]
    return text.replace("null", "").split(",") if values else []


def _plain(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _quoted(text: str) -> str:
    """A field of a CSV."""
    return '"{}"'.format(text.replace('"', '""')) if set(text) & {",", '"', "\n", "\r"} else text
