"""Names that others chose, made harmless where they are shown: control characters, formulas."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection

import pandas as pd

# Joiners and tags belong to emoji and to scripts; the other format characters only deceive.
_KEPT = {"\t", "\n", "\r", "\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def code(character: str) -> str:
    """Returns ``U+202E``: a character by its number."""
    return f"U+{ord(character):04X}"


def visible(text: str) -> str:
    """Returns text in which what cannot be seen, or turns the text around, is named by its number."""
    return "".join(code(c) if _unseen(c) else c for c in text)


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
    columns = []
    for name in table.columns:
        values = table[name].tolist()
        if name not in numbers:
            # Names repeat: each is looked through once.
            harmless = {value: cell(value) for value in {v for v in values if isinstance(v, str)}}
            values = [harmless[v] if isinstance(v, str) else v for v in values]
        columns.append(["" if v is None or v != v else v for v in values])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def _unseen(character: str) -> bool:
    kind = unicodedata.category(character)
    return character not in _KEPT and kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}
