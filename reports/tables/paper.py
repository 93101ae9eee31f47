"""The paper's tables from its published numbers, methods as columns; measured numbers in blocks apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from harness.common.errors import UserError, nearest
from harness.common.text import cell
from harness.spec.metrics import METRICS, TITLES
from reports.published.numbers import PAPER, Published
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Cell, told
from reports.tables import latex as tex
from reports.tables.block_table import tables_page
from reports.tables.suites import SHEETS, sheet

_HEAD = ("numbers", "dataset", "anomalies", "metric", "category")
_OTHERS = {"throughput": "Throughput (img/s)", "gpu_memory": "GPU memory (GB)"}


@dataclass(frozen=True)
class PaperRow:
    """One row of a table.

    Attributes:
        head: whose numbers, dataset, split, metric, category.
        texts: one number per method, as shown; empty where there is none.
        places: 1 for the best and 2 for the second of the row, else 0.
    """

    head: tuple[str, str, str, str, str]
    texts: tuple[str, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, its published rows first."""

    name: str
    methods: tuple[str, ...]
    rows: tuple[PaperRow, ...]


def chosen(text: str, numbers: Sequence[Published]) -> list[str]:
    """Returns the names that ``paper`` (every table) or ``table-1,leak`` ask for.

    Raises:
        UserError: there is no such table.
    """
    printed = {int(n.table) for n in numbers if n.source == PAPER}
    measured = {int(name.removeprefix("table-")) for name in SHEETS if name.startswith("table-")}
    paper = [f"table-{n}" for n in sorted(printed | measured)]
    known = list(dict.fromkeys([*paper, *SHEETS]))
    found: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name != "paper" and name not in known:
            raise UserError(f"There is no table '{name}'. {nearest(name, [*known, 'paper'])}")
        found += paper if name == "paper" else [name]
    return list(dict.fromkeys(found))


def build_table(name: str, numbers: Sequence[Published], board: Leaderboard | None = None) -> PaperTable:
    """Returns a table, with a block for each ranking of the same datasets that has any of its cells."""
    own = [n for n in numbers if n.source == PAPER and f"table-{n.table}" == name]
    methods = tuple(dict.fromkeys(n.method for n in own))
    cells = {((n.dataset, n.split, n.metric, n.category), n.method): n for n in own}
    keys = list(dict.fromkeys((n.dataset, n.split, n.metric, n.category) for n in own))
    rows = []
    for key in keys:
        there = [cells.get((key, m)) for m in methods]
        places = _places([n.value if n else None for n in there], lowest=key[2] == "gpu_memory")
        rows.append(PaperRow(("published", *key), tuple(n.text() if n else "" for n in there), places))
    for ranking in board.rankings if board else ():
        for key in keys:
            dataset, split, metric, category = key
            if dataset != ranking.dataset or metric not in METRICS or split not in ranking.splits:
                continue
            measured: list[Cell | None] = [
                ranking.cell(m, category, split, metric) if m in ranking.methods else None for m in methods
            ]
            if any(c and c.mean is not None for c in measured):
                places = _places(
                    [
                        round(c.mean, 1) if c and c.mean is not None and c.have == c.want else None
                        for c in measured
                    ]
                )
                texts = tuple(told(c) if c else "" for c in measured)
                rows.append(PaperRow((f"measured {ranking.name}", *key), texts, places))
    return PaperTable(name, methods, tuple(rows))


def paper_csv(table: PaperTable) -> str:
    """The table as CSV, numbers as shown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_HEAD, *map(cell, table.methods)])
    writer.writerows([*map(cell, row.head), *row.texts] for row in table.rows)
    return out.getvalue()


def to_latex(table: PaperTable, style: str = "tmlr") -> str:
    """The table for booktabs; what is the same in every row stands in the caption, sources apart."""
    heads = [row.head for row in table.rows]
    same = [len({h[i] for h in heads}) == 1 for i in range(len(_HEAD))]
    columns = [i for i in range(1, len(_HEAD)) if not same[i]] or [len(_HEAD) - 1]
    notes = tex.Notes()
    count = len(columns) + len(table.methods)
    lines: list[list[str] | str] = [
        [*(_HEAD[i].capitalize() for i in columns), *(tex.head(m, notes) for m in table.methods)]
    ]
    block = table.rows[0].head[0]
    if not same[0]:
        lines.append(f"\\multicolumn{{{count}}}{{l}}{{\\emph{{{tex.escape(block)}}}}} \\\\")
    for row in table.rows:
        if row.head[0] != block:
            block = row.head[0]
            lines += ["\\midrule", f"\\multicolumn{{{count}}}{{l}}{{\\emph{{{tex.escape(block)}}}}} \\\\"]
        missing = "not printed" if row.head[0] == "published" else "not run"
        texts = [tex.number(t, p, notes, missing) for t, p in zip(row.texts, row.places, strict=True)]
        lines.append([*(tex.first(_shown(i, row.head[i]), notes) for i in columns), *texts])
    constant = ", ".join(
        f"{_HEAD[i]} {tex.escape(heads[0][i])}" for i in (0, 1, 2, 4) if same[i] and i not in columns
    )
    title = tex.escape(_title(table))
    caption = title + (f" Throughout: {constant}." if constant else "")
    spec = "l" * len(columns) + "r" * len(table.methods)
    return tex.table(style, caption, f"tab:ulsad-{table.name}", spec, lines, notes, title.partition(";")[0])


def to_html(table: PaperTable) -> str:
    """The table as a page of its own."""
    rows = [(row.head, row.texts, row.places) for row in table.rows]
    return tables_page(table.name, _title(table), (*_HEAD, *table.methods), rows)


def files(
    wanted: str, numbers: Sequence[Published], board: Leaderboard, style: str = "tmlr"
) -> dict[str, str]:
    """Returns the files of the tables by name, and ``all.tex``, which shows them all.

    Args:
        wanted: e.g. ``paper`` or ``table-1,leak``; of the paper those without numbers are left out.
        numbers: published ones.
        board: the measured numbers.
        style: of LaTeX.

    Raises:
        UserError: there is no such table, or no numbers for one that is named.
    """
    names = chosen(wanted, numbers)
    named = [name.strip() for name in wanted.split(",")]
    made: dict[str, str] = {}
    for name in names:
        if name in SHEETS:
            found = sheet(name, board)
            if found is None and name in named:
                raise UserError(
                    f"There are no records for {name}: run `bench run --suite {SHEETS[name].suite}` first."
                )
            made |= found.files(style) if found else {}
            continue
        table = build_table(name, numbers, board)
        made |= {
            f"{name}.tex": to_latex(table, style),
            f"{name}.csv": paper_csv(table),
            f"{name}.html": to_html(table),
        }
    if shown := [name for name in names if f"{name}.tex" in made]:
        made["all.tex"] = tex.document(style, shown)
    return made


def _title(table: PaperTable) -> str:
    number = table.name.removeprefix("table-")
    metrics = dict.fromkeys({**TITLES, **_OTHERS}[row.head[3]] for row in table.rows)
    return f"Table {number} of Patra and Ben Taieb (TMLR 2024): {', '.join(metrics)}; scores in percent."


def _shown(column: int, text: str) -> str:
    """A head's text as a paper prints it."""
    return {**TITLES, **_OTHERS}[text] if _HEAD[column] == "metric" else text


def _places(values: Sequence[float | None], lowest: bool = False) -> tuple[int, ...]:
    """1 for the best value and 2 for the second, equal values together."""
    order = sorted({v for v in values if v is not None}, reverse=not lowest)[:2]
    return tuple(order.index(v) + 1 if v is not None and v in order else 0 for v in values)
