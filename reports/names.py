"""Names that others chose, made harmless where they are shown: control characters, formulas."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from pydantic_core import to_json

# Joiners and tags belong to emoji and to scripts; the other format characters only deceive.
_KEPT = {"\t", "\n", "\r", "\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def code(character: str) -> str:
    """Returns ``U+202E``: a character by its number."""
    return f"U+{ord(character):04X}"


def visible(text: str) -> str:
    """Returns text in which what cannot be seen, or turns the text around, is named by its number."""
    # What is printable throughout, as nearly all names and lines are, has nothing to name.
    return (
        text if text.replace("\n", "").isprintable() else "".join(code(c) if _unseen(c) else c for c in text)
    )


def cell(text: str) -> str:
    """Returns text that no spreadsheet reads as a formula: an apostrophe goes before what may start one."""
    # Not every version of Python's writer quotes a lone carriage return, which ends a row for readers.
    shown = visible(text).replace("\r", code("\r"))
    return f"'{shown}" if text.startswith(_FORMULA) else shown


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


def _unseen(character: str) -> bool:
    kind = unicodedata.category(character)
    return character not in _KEPT and kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}
