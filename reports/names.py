"""Names that others chose, made harmless where they are shown: control characters, formulas."""

from __future__ import annotations

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
    harmless = table.copy()
    for name in harmless.columns:
        if name not in numbers and not pd.api.types.is_numeric_dtype(harmless[name]):
            harmless[name] = [cell(v) if isinstance(v, str) else v for v in harmless[name]]
    return harmless.to_csv(index=False, lineterminator="\n").encode()


def _unseen(character: str) -> bool:
    kind = unicodedata.category(character)
    return character not in _KEPT and kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}
