"""A table of measured numbers in blocks, as CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.common.text import cell, visible
from reports.tables import latex as tex

_TAGS = {0: "{}", 1: "<b>{}</b>", 2: "<u>{}</u>"}
_SYMBOL = re.compile(r"(λ|L)_([a-z]+)(?:\^([a-z]))?")
# A difference in points, with its interval where there is one.
_DIFFERENCE = re.compile(r"[+−]\d+\.\d+( \[.*\])?")


@dataclass(frozen=True)
class TableLine:
    """A row: what it is, a text for each column, and 1 for the best of a column, 2 for the second, else 0."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Rows that may be compared with each other."""

    title: str
    lines: tuple[TableLine, ...]


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        name: of its files.
        title: its caption.
        labels: heads of the columns that say what a row is.
        columns: heads of the columns of numbers.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]

    def files(self, style: str) -> dict[str, str]:
        """Returns the table in each format, by file name."""
        return {
            f"{self.name}.tex": self.latex(style),
            f"{self.name}.csv": self.csv(),
            f"{self.name}.html": self.html(),
        }

    def csv(self) -> str:
        """The table as CSV, numbers as shown."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["numbers", *self.labels, *map(cell, self.columns)])
        for block in self.blocks:
            writer.writerows(
                [cell(block.title), *map(cell, line.labels), *line.texts] for line in block.lines
            )
        return out.getvalue()

    def latex(self, style: str) -> str:
        """The table for booktabs, a block under the other."""
        notes = tex.Notes()
        width = len(self.labels) + len(self.columns)
        rows: list[list[str] | str] = [
            [*map(_symbol, self.labels), *(tex.head(column, notes) for column in self.columns)]
        ]
        for number, block in enumerate(self.blocks):
            rows += ["\\midrule"] if number else []
            title = tex.first(block.title, notes)
            rows.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{title}}}}} \\\\")
            for line in block.lines:
                texts = [_number(t, p, notes) for t, p in zip(line.texts, line.places, strict=True)]
                rows.append([*(tex.first(label, notes) for label in line.labels), *texts])
        spec = "l" * len(self.labels) + "r" * len(self.columns)
        return tex.table(style, tex.escape(self.title), f"tab:{self.name}", spec, rows, notes)

    def html(self) -> str:
        """The table as a page of its own."""
        rows = [
            ((block.title, *line.labels), line.texts, line.places)
            for block in self.blocks
            for line in block.lines
        ]
        return tables_page(self.name, self.title, ("numbers", *self.labels, *self.columns), rows)


def tables_page(
    name: str,
    caption: str,
    head: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Sequence[str], Sequence[int]]],
) -> str:
    """Returns a table as a page of its own.

    Args:
        name: title of the page.
        caption: of the table.
        head: of all columns.
        rows: of each row its labels, its texts, and their places: 1 is bold, 2 underlined.
    """
    heads = "".join(f"<th>{html.escape(visible(text))}</th>" for text in head)
    body = "\n".join(
        "<tr>"
        + "".join(f"<th>{html.escape(visible(label))}</th>" for label in labels)
        + "".join(
            f"<td>{_TAGS[p].format(html.escape(visible(t)))}</td>" for t, p in zip(texts, places, strict=True)
        )
        + "</tr>"
        for labels, texts, places in rows
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title></head>\n'
        f"<body><table><caption>{html.escape(visible(caption))}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>\n</body></html>\n"
    )


def _symbol(label: str) -> str:
    """The head of a column, a symbol as mathematics: ``λ_l``, ``L_pg^d``."""
    if found := _SYMBOL.fullmatch(label):
        letter, below, above = found.groups()
        name = "\\lambda" if letter == "λ" else letter
        return f"${name}_{{{below}}}" + (f"^{{{above}}}$" if above else "$")
    return tex.escape(label)


def _number(text: str, place: int, notes: tex.Notes) -> str:
    if _DIFFERENCE.fullmatch(text):
        # TeX's own minus, which the escape does not know.
        return "$-$".join(map(tex.escape, text.split("−")))
    return tex.number(text, place, notes, "not run")
