"""``bench``: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
    chosen_suite,
    packing,
    sentences,
    with_options,
)
from harness.cli.rescore import rescore
from harness.cli.results import merge, results_, verify
from harness.cli.suites import list_suites
from harness.common.errors import Terminated, UserError, terminable

if TYPE_CHECKING:
    from harness.planning.forecast import Forecast
    from harness.planning.packing import Pack
    from harness.planning.plan import Options, Plan
    from harness.spec.suite import Suite

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
    "wanted",
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
def run(
    timeout: float | None,
    wanted: Pack,
    report: bool,
    report_to: Path,
    quiet: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Run methods on datasets, then write the leaderboard. Alone: the demo.

    Finished runs are kept, so that the same command goes on where it was stopped.
    """
    with sentences(debug), _stoppable():
        from rich.console import Console

        from harness.execution.executors.choose import opened

        executor_name = given.get("executor_name") or "local"
        if executor_name != "local" and wanted != 1:
            raise UserError(
                f"--pack {wanted} is for --executor local: give Ray --per-run 0.5 for two on each."
            )
        console = Console(highlight=False)
        with opened(executor_name, given["device"], given) as place:
            suite, options, plan, forecast = _plan(given | {"devices": place.devices})
            from harness.cli.command_line import command_line
            from harness.execution.pipeline import run_plan
            from harness.planning.order import in_order
            from harness.planning.packing import pack

            plan, devices = pack(plan, forecast, place.devices, wanted)
            plan = in_order(plan, forecast, len(devices))
            if not quiet:
                console.print(_head(suite, place.about, plan), markup=False)
            where = options.places.results, devices
            command = command_line(sys.argv[1:])
            records = run_plan(plan, *where, timeout, quiet, console, place.run_all, forecast, command)
        failures = [record for record in records if record.outcome != "ok"]
        if report:
            _report(options.places.results, report_to, console, quiet)
        if failures:
            click.echo(
                f"{len(failures)} of {len(records)} runs failed; their records hold the traceback.", err=True
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
    options = {
        "timeout": None,
        "wanted": 1,
        "report": False,
        "report_to": report_to,
        "quiet": quiet,
        "debug": debug,
    }
    code = 0
    try:
        context.invoke(run, **options, **given)
    except SystemExit as ended:
        # Some runs failed: what the others cost is shown all the same.
        if ended.code != 1:
            raise
        code = 1
    with sentences(debug):
        from rich.console import Console

        console = Console(highlight=False)
        _report(given["results"], report_to, console, quiet, wanted="efficiency", only_tables=True)
    sys.exit(code)


@main.command()
@with_options(RUN_OPTIONS)
def plan(debug: bool, **given: Any) -> None:
    """Print what `bench run` with the same options would do."""
    with sentences(debug):
        from rich.console import Console

        from harness.common.files import cache_dir
        from harness.data.unscored import said
        from harness.planning.cost_estimate import expected_time
        from harness.planning.order import in_order

        console = Console(highlight=False)
        # First, for it needs no data, and planning does.
        for line in said(chosen_suite(given), given["data_root"], cache_dir()):
            console.print(line, markup=False, soft_wrap=True)
        suite, options, plan, forecast = _plan(given)
        plan = in_order(plan, forecast, len(options.devices))
        console.print(_head(suite, ", ".join(options.devices), plan), markup=False)
        for task in plan.tasks:
            state = "done " if task.key in plan.done else "parts" if task.made_from else "to do"
            console.print(f"  {state}  {task.spec.label()}", markup=False)
        console.print(expected_time(plan, forecast, len(options.devices)), markup=False)


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
        from rich.console import Console

        _report(results, output, Console(highlight=False), quiet=False, **given)


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


def _plan(given: dict[str, Any]) -> tuple[Suite, Options, Plan, Forecast]:
    """Turns options into a plan, and what earlier records say; nothing given means the suite's own value."""
    import logging

    from harness.common.files import cache_dir
    from harness.common.places import Places
    from harness.execution.devices import find_devices
    from harness.planning.forecast import Forecast
    from harness.planning.plan import Options, make_plan
    from harness.results.sequence import highest
    from harness.results.store import Folder, recent_records

    logging.getLogger("timm").setLevel(logging.ERROR)
    keep = frozenset(given["keep"] or ())
    if stray := sorted(keep - {"maps", "weights", "parts"}):
        raise UserError(f"--keep {stray[0]}: there are maps, weights and parts to keep.")
    suite = chosen_suite(given)
    keep = keep | set(suite.keep)
    options = Options(
        devices=given.get("devices") or find_devices(given["device"]),
        places=Places(cache_dir(), given["data_root"], given["results"]),
        overwrite=given["overwrite"],
        limit_train=given["limit_train"],
        backbone_weights=given["backbone_weights"],
        keep=keep,
        checkpoint_every=given["checkpoint_every"],
        measure=given["measure"],
    )
    folder = Folder(options.places.results)
    plan = make_plan(suite, options, folder)
    if "parts" in (given["keep"] or ()) and not any("parts" in task.keep for task in plan.tasks):
        raise UserError("--keep parts: no method of this run has post-processing of its own.")
    if given["backbone"] and not any("backbone" in task.identity.config for task in plan.tasks):
        raise UserError(f"No method of this run has a backbone to set to '{given['backbone']}'.")
    recent = recent_records(folder)
    plan = replace(plan, highest=highest(folder, recent))
    return suite, options, plan, Forecast(recent)


def _head(suite: Suite, where: str, plan: Plan) -> str:
    return f"{suite.title}: {_counts(plan)}, at {suite.image_size} px on {where}."


def _counts(plan: Plan) -> str:
    damaged = f", {len(plan.damaged)} damaged records" if plan.damaged else ""
    return f"{len(plan.tasks)} runs, {len(plan.done)} done, {len(plan.todo)} to do{damaged}"


def _report(results: Path, output: Path, console: Any, quiet: bool, **given: Any) -> None:
    """Writes the report through the entry point of ``reports``, which the harness does not know by name."""
    from importlib.metadata import entry_points

    from harness.data.unscored import official_counts
    from harness.registry.methods import stated_versions

    writers = entry_points(group="ulsad_bench.reports", name="default")
    if not writers:
        raise UserError("The report writer is not installed: reinstall ulsad-bench.")
    known = {"versions": stated_versions(), "test_images": official_counts()}
    lines = next(iter(writers)).load()(results, output, **known, **given)
    if not quiet:
        for line in lines:
            console.print(line, markup=False) if isinstance(line, str) else console.print(line)
