"""A report for each dataset, and a page that leads to them: where one of all would not fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.text import visible
from reports.page.page import contents
from reports.page.sections import answered
from reports.page.verdict import costs_of
from reports.rankings.leaderboard import Leaderboard
from reports.tables.formats import FORMATS

# A report holds all of its records in memory, some 30 kB each.
LIMIT = 200_000
FOLDER = "datasets"


class NoRecordsError(UserError):
    """There is nothing to report."""


def by_dataset(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns where the records of each dataset lie, given where all do."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def write_apart(
    names: Mapping[str, Sequence[str]],
    output: Path,
    kinds: Collection[str],
    write: Callable[[str, Path], Leaderboard],
) -> list[Table | str]:
    """Writes a report of each dataset into ``datasets/NAME``; returns what to print about them.

    Args:
        names: where the records of each dataset lie.
        output: folder of the report.
        kinds: the formats that are written.
        write: writes the report of a dataset into a folder and returns what it shows, or raises
            :class:`NoRecordsError`.

    Raises:
        OSError: the page that leads to them cannot be written.
    """
    pages = {dataset: f"{FOLDER}/{quote(dataset)}/{FORMATS['html']}" for dataset in names}
    rankings, notes = [], list[str]()
    console = Console(stderr=True)
    for dataset in track(names, "Reports", console=console, transient=True, disable=not console.is_terminal):
        try:
            board = write(dataset, output / FOLDER / dataset)
        except NoRecordsError:
            notes.append(f"{visible(dataset)} has no readable record; `bench verify` names what is wrong.")
            continue
        notes += board.notes
        if "html" in kinds:
            rankings += [answered(one, costs_of(one), pages[dataset]) for one in board.rankings]
        # The next one's records take the room of these.
        del board
        gc.collect()
    table = Table(title="One report for each dataset", title_justify="left")
    table.add_column("dataset", overflow="fold")
    table.add_column("records", justify="right")
    for dataset, own in names.items():
        table.add_row(Text(visible(dataset)), f"{len(own):,}")
    if "html" not in kinds:
        return [table, *notes, f"Reports: {output / FOLDER}"]
    rows = [(dataset, pages[dataset], len(own)) for dataset, own in names.items()]
    write_atomically(output / FORMATS["html"], contents(rows, rankings, notes).encode())
    return [table, *notes, f"Report: {output / FORMATS['html']}"]
