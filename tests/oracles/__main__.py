"""Runs the oracle tests and prints a table: what was compared with whose values, and how closely they agree.

``python -m tests.oracles [docs/how-we-know.md] [pytest's arguments]`` writes it into a page as well, between
its two markers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.oracles.agreement import PROPERTY, Agreement

BEGIN, END = "<!-- oracles: -->", "<!-- :oracles -->"


class Collected:
    """The comparisons of a session, by the order of its tests, from whichever process ran them."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Agreement]] = {}
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes what a finished test wrote down, or why it did not run."""
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped.append(f"{report.nodeid.rpartition('/')[2]}: {report.longrepr[2]}")
        if report.when == "call":
            found = [json.loads(str(value)) for name, value in report.user_properties if name == PROPERTY]
            self.rows.setdefault(report.nodeid, []).extend(Agreement(**row) for row in found)

    def table(self) -> str:
        """Markdown, a row for each comparison."""
        lines = ["| what | checked | oracle | agreement | allowed |", "|---|---|---|---|---|"]
        rows = [row for name in sorted(self.rows) for row in self.rows[name]]
        for row in sorted(rows, key=lambda row: row.subject.lower()):
            unit = "" if row.unit == "relative" else f" {row.unit}"
            cells = (row.subject, row.check, row.oracle, f"{row.difference:.1e}{unit}", f"{row.allowed:g}")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Runs the tests; returns pytest's exit status."""
    page = Path(arguments.pop(0)) if arguments and arguments[0].endswith(".md") else None
    collected = Collected()
    status = int(pytest.main(["tests/oracles", "-m", "", "-q", *arguments], plugins=[collected]))
    sys.stdout.write(f"\n{collected.table()}\n")
    for reason in collected.skipped:
        sys.stdout.write(f"not compared here: {reason}\n")
    if page is not None and status == 0:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n{collected.table()}\n{END}{after}", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
