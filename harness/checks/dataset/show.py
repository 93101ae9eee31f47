"""The audit in the terminal: a table of categories, then every finding."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.checks.dataset.audit import Audited


def print_audit(audited: Sequence[Audited], console: Console) -> None:
    """Prints what was found."""
    table = Table(box=None, pad_edge=False)
    table.add_column("category", overflow="fold")
    for heading in ("training", "validation", "test", "near duplicates", "masks", "shifts"):
        table.add_column(heading, justify="right")
    for one in audited:
        train, validation, *test = one.counts.values()
        found = (one.count("duplicate"), one.count("mask"), one.count("shift"))
        numbers = (train, validation, sum(test), *found)
        table.add_row(Text(f"{one.dataset}/{one.category}"), *map(str, numbers))
    console.print(table)
    for one in audited:
        for finding in one.findings:
            text = f"{one.dataset}/{one.category}: {finding.kind}: {finding.message}"
            console.print(text, markup=False, soft_wrap=True)
