"""Writes a report: the leaderboard in the formats asked for, and published numbers beside measured ones."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.text import visible
from harness.results.store import record_names
from harness.spec.metrics import METRICS, in_terminal
from reports.figures.plots import chosen_figures, undrawn, write_figures
from reports.page.gallery import FOLDER, Gallery, write_pictures
from reports.page.page import page
from reports.per_dataset import LIMIT, NoRecordsError, by_dataset, write_apart
from reports.published.compare import Pair, compare_published, frame
from reports.published.consistency import TestImages, check_consistency
from reports.published.numbers import Published, published
from reports.rankings.leaderboard import Leaderboard, build
from reports.rankings.ranking import Ranking
from reports.rankings.scores import MEAN
from reports.rankings.tidy_table import tidy, tidy_csv
from reports.records import chosen_names, load_records
from reports.second_process import beside
from reports.tables.csv_text import to_csv
from reports.tables.formats import FORMATS, asked, to_json, to_markdown, to_parquet
from reports.tables.leaderboard_latex import tables
from reports.tables.operating_points import operating_csv
from reports.tables.paper import files as files_of

# From so many records on, the page and the tables are worth a core each.
MANY = 10_000
# Rows of rankings that are printed.
_PRINTED = 300
_MARK = "% Written by `bench report`; it is replaced by the next report.\n"


class _Style(NamedTuple):
    """How LaTeX tables are set, and whether they cite."""

    name: str
    cite: bool


class _Asked(NamedTuple):
    """What a report is to hold, and what is known beside the records."""

    numbers: Sequence[Published]
    wanted: str
    kinds: frozenset[str]
    style: _Style
    figures: frozenset[str]
    versions: Mapping[str, int]
    test_images: TestImages


class _Records(NamedTuple):
    """Which records it is made from: those of some datasets, or of all; ``names`` once they are listed."""

    results: Path
    datasets: frozenset[str] = frozenset()
    names: Sequence[str] | None = None


def write(  # noqa: PLR0913 - options of a command
    results: Path,
    output: Path,
    *,
    files: Sequence[Path] = (),
    check: bool = False,
    datasets: str = "",
    wanted: str = "",
    figures: str = "",
    latex_style: str = "tmlr",
    latex_cite: bool = True,
    formats: str = "csv,html,latex",
    only_tables: bool = False,
    versions: Mapping[str, int] | None = None,
    test_images: TestImages | None = None,
) -> list[Table | str]:
    """Writes the report of a results folder; returns what to print about it.

    Args:
        results: folder of the records.
        output: folder of the report.
        files: CSVs of published numbers beside the paper's.
        check: only audit the published numbers; nothing is read from ``results`` and nothing written.
        datasets: names of datasets, comma-separated, whose records are reported; empty means all.
        wanted: the paper's tables and those of suites to write too, e.g. ``paper`` or ``table-1,leak``; its
            figures may be named too, as in ``figures``.
        figures: which figures for papers to draw too, e.g. ``all`` or ``figure-7``, see
            :mod:`reports.figures.plots`.
        latex_style: ``tmlr`` (one column) or ``ieee`` (two).
        latex_cite: whether methods in LaTeX carry the key of their paper in ``references.bib``.
        formats: which files to write, see :data:`reports.tables.formats.FORMATS`; others that are there stay.
        only_tables: write nothing but the tables that ``wanted`` names, and print them.
        versions: of the installed methods, by name, so that records of earlier ones are told.
        test_images: official number of test images by dataset and category, for the published numbers.

    Raises:
        UserError: there is no record, no such format, or the output folder cannot be written.
    """
    kinds = asked(formats)
    numbers = published(files)
    if check:
        found = check_consistency(numbers, test_images)
        return [found.table(), found.summary(), *found.cut_summary()]
    style = _Style(latex_style, latex_cite)
    names = [part.strip() for part in wanted.split(",") if wanted]
    drawn = frozenset[str]()
    for text in (figures, ",".join(name for name in names if name.startswith("figure-"))):
        drawn |= chosen_figures(text) if text else frozenset()
    wanted = ",".join(name for name in names if not name.startswith("figure-"))
    asked_for = _Asked(numbers, wanted, kinds, style, drawn, versions or {}, test_images or {})
    records = _list(results, frozenset(part.strip() for part in datasets.split(",") if part.strip()))
    count = len(records.names or ())
    if count > LIMIT and len(apart := by_dataset(records.names or ())) > 1:
        if only_tables or wanted or drawn:
            raise UserError(
                f"Tables and figures by name need all records at once, and {count:,} are too many: "
                "name some of the datasets with --datasets."
            )
        return _write_apart(results, apart, output, asked_for)
    if only_tables:
        return _only_tables(records, output, asked_for)
    with _without_collector():
        return _write(records, output, asked_for)[1]


def _list(results: Path, datasets: frozenset[str]) -> _Records:
    """Lists the records; published numbers can be shown without any.

    Raises:
        UserError: a dataset has no records.
    """
    if not results.is_dir():
        return _Records(results, datasets)
    names = chosen_names(results, datasets)
    for name in sorted(datasets - by_dataset(names).keys() if datasets else ()):
        known = ", ".join(by_dataset(record_names(results))) or "none"
        raise UserError(f"There are no records of '{visible(name)}' in {results}: there are of {known}.")
    return _Records(results, datasets, names)


def _write_apart(
    results: Path, names: Mapping[str, Sequence[str]], output: Path, asked_for: _Asked
) -> list[Table | str]:
    """Writes one report for each dataset."""

    def write_one(dataset: str, folder: Path) -> Leaderboard:
        own = _Records(results, frozenset([dataset]), names[dataset])
        with _without_collector():
            return _write(own, folder, asked_for)[0]

    with _writing(output):
        return write_apart(names, output, asked_for.kinds, write_one)


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Says in a sentence that the report cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"The report cannot be written to {output} ({error.strerror or error}).") from error


def _only_tables(records: _Records, output: Path, asked_for: _Asked) -> list[Table | str]:
    """Writes tables by name and returns them to print."""
    loaded = load_records(*records)
    board = build(loaded.records, loaded.damaged, asked_for.versions)
    made = files_of(asked_for.wanted, asked_for.numbers, board, asked_for.style.name)
    _write_named(output, made)
    printed: list[Table | str] = []
    for name, content in made.items():
        if name.endswith(".csv"):
            printed += _printed(content)
    return [*printed, f"Tables: {output / 'paper'}"]


def _printed(content: str) -> Iterator[Table]:
    """Yields the blocks of a table's CSV turned on their side: there are more columns than a terminal has."""
    head, *rows = csv.reader(io.StringIO(content))
    for title, own in itertools.groupby(rows, key=lambda row: row[0]):
        block = list(own)
        table = Table(title=Text(visible(title)), title_justify="left")
        table.add_column("")
        for row in block:
            table.add_column(escape(visible(row[1])), justify="right")
        for number, column in enumerate(head[2:], start=2):
            texts = [row[number].replace("not measured", "–") for row in block]
            table.add_row(column, *(Text(visible(text)) for text in texts))
        yield table


def _write_named(output: Path, made: Mapping[str, str]) -> None:
    try:
        for name, content in made.items():
            write_atomically(output / "paper" / name, content.encode())
    except OSError as error:
        raise UserError(f"No tables can be written to {output} ({error.strerror or error}).") from error


def _write(source: _Records, output: Path, asked_for: _Asked) -> tuple[Leaderboard, list[Table | str]]:
    """Writes what is asked for, see :func:`write`; returns what it shows, and what to print about it."""
    numbers, wanted, kinds, style, figures, versions, test_images = asked_for
    results = source.results
    loaded = load_records(*source) if source.names is not None or not wanted else None
    records, broken = (loaded.records, loaded.damaged) if loaded else ((), ())
    board = build(records, broken, versions)
    made = files_of(wanted, numbers, board, style.name) if wanted else {}
    _write_named(output, made)
    if made and not records:
        count = sum(name.endswith(".csv") for name in made)
        return board, [*board.notes, f"{count} tables of published numbers: {output / 'paper'}"]
    if not records:
        damaged = f" ({len(broken)} damaged files)" if broken else ""
        raise NoRecordsError(
            f"There are no records in {results}{damaged}: run `bench run` first, or give --results."
        )
    pairs = compare_published(board, numbers)

    def rest() -> None:
        if kinds & {"csv", "json", "parquet"}:
            _write_tidy(output, board, pairs, kinds)
        if "latex" in kinds:
            _write_tables(output / FORMATS["latex"], tables(board, style.name, style.cite))
        if "markdown" in kinds:
            write_atomically(output / FORMATS["markdown"], to_markdown(board).encode())

    # pyarrow, which writes Parquet, has threads, which a copied process would lack.
    many = len(records) >= MANY and "html" in kinds and "parquet" not in kinds
    with _writing(output), beside(rest, many):
        if "html" in kinds:
            audited, gallery = check_consistency(numbers, test_images) if pairs else None, Gallery(results)
            html = page(board, pairs, audited, results, gallery)
            # First the pictures: a page never links to one that is not there yet.
            write_pictures(output / FOLDER, gallery.files)
            write_atomically(output / FORMATS["html"], html.encode())
    drawn = write_figures(board, results, output / "figures", figures) if figures else []
    first = next(FORMATS[kind] for kind in ("html", *FORMATS) if kind in kinds)
    return board, [
        *_printable(board.rankings),
        *board.notes,
        *undrawn(figures, drawn),
        *([f"{len(drawn)} figures: {output / 'figures'}"] if figures else []),
        f"Report: {output / first}",
    ]


def _write_tidy(output: Path, board: Leaderboard, pairs: Sequence[Pair], kinds: Collection[str]) -> None:
    """Writes the tidy table, and beside its CSV what there is to compare."""
    table = tidy(board.rankings)
    if "csv" in kinds:
        _write_pairs(output / "published.csv", pairs)
        _write_operating(output / "operating.csv", operating_csv(board.rankings))
        write_atomically(output / FORMATS["csv"], tidy_csv(table))
    if "json" in kinds:
        write_atomically(output / FORMATS["json"], to_json(table))
    if "parquet" in kinds:
        write_atomically(output / FORMATS["parquet"], to_parquet(table))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pauses the collector of cyclic garbage: with a hundred thousand records it takes half of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Writes what there is to compare; an older report's file does not stay beside a new page."""
    if pairs:
        write_atomically(path, to_csv(frame(pairs), numbers=("published", "published_std")))
    else:
        path.unlink(missing_ok=True)


def _write_operating(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, content)


def _write_tables(folder: Path, files: dict[str, str]) -> None:
    for old in folder.glob("*.tex"):
        # Of two reports at once the other may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if old.name not in files and old.read_text(encoding="utf-8").startswith(_MARK):
                old.unlink()
    for name, content in files.items():
        write_atomically(folder / name, (_MARK + content).encode())


def _printable(rankings: Sequence[Ranking]) -> list[Table | str]:
    """The rankings for the terminal, unless they are so many that nobody would read them there."""
    rows = sum(len(ranking.methods) for ranking in rankings)
    if rows > _PRINTED:
        return [f"{len(rankings)} rankings with {rows} rows are too many to print: see the report."]
    return [_terminal(ranking) for ranking in rankings]


def _terminal(ranking: Ranking) -> Table:
    """A ranking for the terminal: methods × metrics, means over categories."""
    badges = "".join(f" · {badge.upper()}" for badge in ranking.badges())
    table = Table(title=Text(visible(f"{ranking.dataset} · {ranking.name}{badges}")), title_justify="left")
    # Variants of a method differ at the end of their names, which must not be cut off.
    table.add_column("method", overflow="fold")
    columns = [(split, metric) for split in ranking.splits for metric in in_terminal(split)]
    for split, metric in columns:
        table.add_column(
            METRICS[metric].title
            + ("" if split == "all" else f"\n{escape(visible(split.replace('_', ' ')))}"),
            justify="right",
        )
    for method in ranking.methods:
        table.add_row(
            Text(visible(method)), *(ranking.cell(method, MEAN, split, m).text() for split, m in columns)
        )
    return table


__all__ = ["Leaderboard", "write"]
