"""``bench``: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness import __version__
from harness.cli.check import baseline, check, history
from harness.cli.data import cache, data, prepare
from harness.cli.deployment import export, predict, threshold
from harness.cli.doctor import doctor
from harness.cli.init import init
from harness.cli.methods import list_methods, test_method
from harness.cli.options import (
    HELP,
    RUN_OPTIONS,
    Finite,
    RunCommand,
    packing,
    run_options,
    sentences,
    with_options,
)
from harness.cli.rescore import rescore
from harness.cli.results import merge, results_, verify
from harness.cli.suites import list_suites
from harness.common.errors import Terminated, terminable

if TYPE_CHECKING:
    from rich.console import Console

    from harness.planning.options import RunOptions

# Where `bench efficiency` leaves records whose scores mean nothing, apart from all others.
COSTS = Path("efficiency")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns Ctrl-C, and the system's request to end, into the command that goes on."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt as stopped:
        again = " ".join(shlex.quote(word) for word in ["bench", *sys.argv[1:]])
        by_system = isinstance(stopped, Terminated)
        why = "Stopped by SIGTERM" if by_system else "\nStopped"
        click.echo(f"{why}. Finished runs are kept; go on with:\n  {again}", err=True)
        sys.exit(143 if by_system else 130)


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="bench")
def main() -> None:
    """A benchmark and leaderboard for industrial image anomaly detection."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may hold what the terminal's encoding has not.
            stream.reconfigure(errors="backslashreplace")


@main.command(cls=RunCommand)
@with_options(RUN_OPTIONS)
@click.option("--timeout", type=Finite(min=0, min_open=True), help="Seconds after which a run is ended.")
@click.option(
    "--pack",
    callback=packing,
    metavar="N|auto",
    default="1",
    show_default=True,
    help="Runs on each device at a time; auto: up to 4 on a GPU, while earlier records say that they fit.",
)
@click.option("--report/--no-report", default=True, show_default=True, help="Write the report at the end.")
@click.option(
    "--report-to",
    type=click.Path(path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Its folder.",
)
@click.option("--quiet", is_flag=True, help="Say only what failed.")
def run(report: bool, report_to: Path, debug: bool, **given: Any) -> None:
    """Run methods on datasets, then write the leaderboard. Alone: the demo.

    Finished runs are kept, so that the same command goes on where it was stopped.
    """
    with sentences(debug), _stoppable():
        from harness.cli.command_line import command_line

        to = report_to if report else None
        _run(run_options(given, report_to=to, command=command_line(sys.argv[1:])))


def _run(asked: RunOptions) -> None:
    """Does the runs; where some failed, says how many and exits with 1."""
    from harness.execution.workflow import run as run_all

    found = run_all(asked)
    if found.failed:
        click.echo(
            f"{len(found.failed)} of {len(found.new)} runs failed; their records hold the traceback.",
            err=True,
        )
        sys.exit(1)


@main.command()
@with_options(RUN_OPTIONS)
@click.option(
    "--report-to",
    type=click.Path(path_type=Path),
    default=COSTS / "report",
    show_default=True,
    help="Folder of the tables.",
)
@click.option("--quiet", is_flag=True, help="Say only what failed.")
@click.pass_context
def efficiency(context: click.Context, /, report_to: Path, quiet: bool, debug: bool, **given: Any) -> None:
    """Measure speed, memory and size: Table 4 with more columns. The scores mean nothing.

    Alone: the suite `efficiency`, nine methods after one pass of training, results in `efficiency`. Speed
    does not depend on weights: `--backbone-weights none` needs no download, and is marked.
    """
    given["suite"] = given["suite"] or "efficiency"
    if context.get_parameter_source("results") is ParameterSource.DEFAULT:
        given["results"] = COSTS
    code = 0
    try:
        with sentences(debug), _stoppable():
            from harness.cli.command_line import command_line

            _run(run_options(given, report_to=None, quiet=quiet, command=command_line(sys.argv[1:])))
    except SystemExit as ended:
        # Some runs failed: what the others cost is shown all the same.
        if ended.code != 1:
            raise
        code = 1
    with sentences(debug):
        from harness.execution.workflow import write_report

        write_report(given["results"], report_to, _console(quiet), wanted="efficiency", only_tables=True)
    sys.exit(code)


@main.command()
@with_options(RUN_OPTIONS)
def plan(debug: bool, **given: Any) -> None:
    """Print what `bench run` with the same options would do."""
    with sentences(debug):
        import logging

        from rich.console import Console

        from harness.data.unscored import unscored_lines
        from harness.execution.devices import find_devices
        from harness.execution.workflow import headline
        from harness.planning.cost_estimate import expected_time
        from harness.planning.order import in_order
        from harness.planning.plan import plan_of

        logging.getLogger("timm").setLevel(logging.ERROR)
        console, asked = Console(highlight=False), run_options(given)
        suite = asked.chosen_suite()
        # First, for it needs no data, and planning does.
        for line in unscored_lines(suite, asked.places.data_root, asked.places.cache):
            console.print(line, markup=False, soft_wrap=True)
        devices = find_devices(asked.device)
        plan, forecast = plan_of(suite, asked, devices)
        plan = in_order(plan, forecast, len(devices))
        console.print(headline(suite, ", ".join(devices), plan), markup=False)
        for task in plan.tasks:
            state = "done " if task.key in plan.done else "parts" if task.made_from else "to do"
            console.print(f"  {state}  {task.spec.label()}", markup=False)
        console.print(expected_time(plan, forecast, len(devices)), markup=False)


@main.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("report"), show_default=True)
@click.option(
    "--published",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="CSV of further published numbers.",
)
@click.option("--datasets", default="", help="Report only these, comma-separated.")
@click.option("--audit", "check", is_flag=True, help="Only check the published numbers themselves.")
@click.option(
    "--tables",
    "wanted",
    default="",
    help="The paper's tables and figures too: paper (every table), or table-1,figure-7; of suites: leak, "
    "contamination.",
)
@click.option(
    "--figures",
    is_flag=False,
    flag_value="all",
    default="",
    help="Figures as PDF, SVG and PNG too, in figures/: alone all, or figure-7,contamination.",
)
@click.option(
    "--format",
    "formats",
    default="csv,html,latex",
    show_default=True,
    help="What to write, comma-separated: csv, html, json, latex, markdown, parquet.",
)
@click.option(
    "--latex-style",
    type=click.Choice(["tmlr", "ieee"]),
    default="tmlr",
    show_default=True,
    help="LaTeX tables for one column of text, or for two.",
)
@click.option(
    "--latex-cite/--no-latex-cite",
    default=True,
    show_default=True,
    help="\\cite the methods' papers, from references.bib.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def report(results: Path, output: Path, debug: bool, **given: Any) -> None:
    """Write leaderboard.csv, index.html and LaTeX tables, or other formats, from the records."""
    with sentences(debug):
        from harness.execution.workflow import write_report

        write_report(results, output, _console(quiet=False), **given)


def _console(quiet: bool) -> Console | None:
    from rich.console import Console

    return None if quiet else Console(highlight=False)


@main.group("list")
def list_() -> None:
    """List what there is to run."""


@list_.command("datasets")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
def list_datasets(data_root: Path | None) -> None:
    """Datasets that have a card, and what of them is on disk."""
    from harness.data.card import card_names, load_card
    from harness.data.samples import on_disk

    for name in card_names():
        card = load_card(name)
        unverified = "" if card.licence_verified else " (unverified)"
        click.echo(f"{name:12} {card.title} · {len(card.categories)} categories · {card.licence}{unverified}")
        click.echo(f"{'':12} on disk: {on_disk(card, data_root)}")


list_.add_command(list_methods)
list_.add_command(list_suites)
for command in (
    *(data, cache, prepare, rescore, merge, verify, results_),
    *(baseline, check, history, test_method, doctor, init, threshold, predict, export),
):
    main.add_command(command)
