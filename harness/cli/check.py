"""``bench baseline``, ``bench check`` and ``bench history``: has anything become worse?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import Finite, sentences
from harness.common.errors import UserError

if TYPE_CHECKING:
    from harness.checks.regression.verdict import Report

# `git bisect run` skips a commit on this code.
_CANNOT_TELL = 125
_FOLDERS = click.option(
    "--results",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    default=[Path("results")],
    show_default="results",
    help="Results folder; once for each repeat.",
)
_FILE = click.Path(path_type=Path, dir_okay=False)
_DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")


@click.command()
@_FOLDERS
@click.option("-o", "--output", type=_FILE, default=Path("baseline.json"), show_default=True)
@_DEBUG
def baseline(folders: tuple[Path, ...], output: Path, debug: bool) -> None:
    """Write down what results amount to, for `bench check` to compare later results with.

    A small file for review: scores of every seed with their spread, times and memory by hardware, protocol,
    weights, data and versions, by cell (dataset/category/method/protocol).
    """
    with sentences(debug):
        from harness.checks.regression.baseline import write_baseline
        from harness.checks.regression.gather import as_baseline, gather
        from harness.common.text import plain

        found = gather(folders)
        made = as_baseline(found)
        write_baseline(output, made)
        for text in found.damaged:
            click.echo(f"Left out, damaged: {plain(text)}", err=True)
        for slot, said in sorted(found.failed.items()):
            click.echo(f"Left out, without scores: {plain('/'.join(slot))} ({plain(said[0])})", err=True)
        single = sum(score.spread is None for cell in made.cells for score in list(cell.scores.values())[:1])
        few = f"; {single} of them have one seed, which only a wide margin can check" if single else ""
        click.echo(f"{plain(output)}: {len(made.cells)} cells{few}.")


@click.command()
@click.option("--baseline", "baseline_file", type=_FILE, default=Path("baseline.json"), show_default=True)
@_FOLDERS
@click.option(
    "--min-effect",
    type=Finite(min=0),
    default=0.5,
    show_default=True,
    help="Percent points by which a mean score must fall, or rise, to count.",
)
@click.option(
    "--min-slow-down",
    type=Finite(min=0),
    default=5.0,
    show_default=True,
    help="Percent by which times must grow to count.",
)
@click.option("--require-speed", is_flag=True, help="Speed on other hardware is an answer missing.")
@click.option("--exact", is_flag=True, help="On the same hardware and packages scores must be the same.")
@click.option("--bisect", is_flag=True, help="Exit with 125 where nothing can be told, for `git bisect run`.")
@click.option("--explain", "explained", metavar="CELL", help="Print one cell in full, and the likely reason.")
@click.option(
    "--markdown", "markdown_file", help="Write a job's summary; - for the terminal.", metavar="FILE"
)
@click.option("--junit", type=_FILE, help="Write JUnit's XML.")
@click.option("--json", "json_file", type=_FILE, help="Write everything as JSON.")
@click.option("--github", is_flag=True, help="Print annotations for GitHub's workflows.")
@click.option("--history", type=_FILE, help="Append a line, for `bench history`.")
@_DEBUG
def check(
    baseline_file: Path,
    folders: tuple[Path, ...],
    min_effect: float,
    min_slow_down: float,
    require_speed: bool,
    exact: bool,
    bisect: bool,
    explained: str | None,
    markdown_file: str | None,
    junit: Path | None,
    json_file: Path | None,
    github: bool,
    history: Path | None,
    debug: bool,
) -> None:
    """Compare results with a baseline: has a score, speed or memory become worse?

    Exit code 0: everything of the baseline was measured and nothing is worse. 1: something is worse. 2: not
    everything could be compared, a score changed otherwise, or a mistake in the call. What each answer means
    is in docs/check.md.
    """
    with _cannot_tell(bisect), sentences(debug):
        from rich.console import Console

        from harness.checks.regression.baseline import read_baseline
        from harness.checks.regression.explain import explain, find_cell
        from harness.checks.regression.gather import gather
        from harness.checks.regression.judge import Rules, judge
        from harness.checks.regression.show import print_report, to_junit, verdict_markdown, workflow_commands

        before = read_baseline(baseline_file)
        cell = find_cell(explained, before) if explained is not None else None
        found = gather(folders)
        report = judge(before, found, Rules(min_effect, min_slow_down, require_speed, exact))
        if cell:
            for line in explain(cell, before, found, report):
                click.echo(line)
        elif markdown_file != "-":
            print_report(report, Console(highlight=False))
        if markdown_file == "-":
            click.echo(verdict_markdown(report))
        elif markdown_file:
            _write(Path(markdown_file), verdict_markdown(report).encode())
        if junit:
            _write(junit, to_junit(report))
        if json_file:
            _write(json_file, report.model_dump_json(indent=1).encode() + b"\n")
        if github:
            for line in workflow_commands(report):
                click.echo(line)
        if history:
            _remember(history, report)
        sys.exit(report.exit_code)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--cell", default="", help="Only cells whose name contains this.")
@click.option("-o", "--output", type=_FILE, help="Draw it too, into an HTML file.")
@_DEBUG
def history(file: Path, cell: str, output: Path | None, debug: bool) -> None:
    """Print the course of every cell over the checks of a history, with its change points."""
    with sentences(debug):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from harness.checks.regression.history import courses, read_history
        from harness.common.text import plain

        nights, damaged = read_history(file)
        for text in damaged:
            click.echo(f"Left out: {text}", err=True)
        table = Table(box=None, pad_edge=False)
        for heading in ("cell", "value", "checks", "first", "last", "course", "changes"):
            table.add_column(heading, overflow="fold")
        found = list(courses(nights, cell))
        for course in found:
            ends = (f"{course.values[at]:.4g}" for at in (0, -1))
            changes = "; ".join(course.described())
            texts = (course.cell, course.what, len(course.values), *ends, course.spark(), changes)
            table.add_row(*(Text(plain(text)) for text in texts))
        Console(highlight=False).print(table)
        click.echo(f"{len(nights)} checks, the last on {plain(nights[-1].time)}: {nights[-1].answer}.")
        if output:
            from harness.checks.regression.history_page import history_page

            _write(output, history_page(nights, found).encode())
            click.echo(f"Charts: {plain(output)}")


@contextmanager
def _cannot_tell(bisect: bool) -> Iterator[None]:
    """Turns exit code 2 into 125 for ``git bisect run``, to which 2 means worse."""
    try:
        yield
    except SystemExit as leaving:
        if bisect and leaving.code == 2:
            sys.exit(_CANNOT_TELL)
        raise


def _remember(path: Path, report: Report) -> None:
    from datetime import UTC, datetime

    from harness.checks.regression.history import append

    append(path, report, datetime.now(UTC).isoformat(timespec="seconds"))


def _write(path: Path, content: bytes) -> None:
    from harness.common.text import plain

    # The page of a job's summary may hold what earlier commands of the step wrote.
    mode = "ab" if str(path) == os.environ.get("GITHUB_STEP_SUMMARY") else "wb"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{plain(path)} cannot be written ({error.strerror or error}).") from error
