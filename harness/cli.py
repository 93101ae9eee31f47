"""``bench``: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import __version__
from harness.cli_methods import register
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.plan import Options, Plan
    from harness.spec import Suite

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Splits at the commas outside brackets."""
    if value is None:
        return None
    from harness.registry import split_names

    return split_names(value)


def _seeds(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    """Reads ``0,1,2`` or ``0-4``."""
    if value is None:
        return None
    seeds: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise click.BadParameter(f"'{part}' is no seed; give e.g. 0,1,2 or 0-4.")
        seeds += range(int(first), int(last or first) + 1)
    if any(seed >= 2**31 for seed in seeds):
        raise click.BadParameter("a seed must be below 2147483648.")
    return seeds


_RUN_OPTIONS = (
    click.option("--suite", default=None, help="Built-in suite or path/to/suite.toml.  [default: demo]"),
    click.option(
        "--methods", callback=_names, help="Comma-separated; all; ulsad[lambda_l=0]; my.py:MyMethod."
    ),
    click.option("--datasets", callback=_names, help="Comma-separated names, paths of cards, or all."),
    click.option("--categories", callback=_names, help="Comma-separated; category or dataset/category."),
    click.option("--seeds", callback=_seeds, help="E.g. 0,1,2 or 0-4."),
    click.option("--protocol", "protocols", callback=_names, help="strict, paper, or both: strict,paper."),
    click.option(
        "--set", "assignments", multiple=True, metavar="METHOD.PARAM=VALUE", help="Hyper-parameter."
    ),
    click.option("--backbone", help="timm backbone for every method that has one."),
    click.option(
        "--backbone-weights",
        type=click.Choice(["pretrained", "none"]),
        default="pretrained",
        show_default=True,
        help="none: random weights, marked everywhere.",
    ),
    click.option("--image-size", type=click.IntRange(32, 4096), help="Side of the images in pixels."),
    click.option("--limit-train", type=click.IntRange(1), help="At most so many training images."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets."
    ),
    click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True),
    click.option(
        "--overwrite",
        type=click.Choice(["never", "failed", "stale", "always"]),
        default="failed",
        show_default=True,
        help="Which runs that have a record are done again.",
    ),
    click.option(
        "--keep", callback=_names, help="Leave beside the records: maps, weights (comma-separated)."
    ),
    click.option("--debug", is_flag=True, help="Show tracebacks."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def apply(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


@contextmanager
def _sentences(debug: bool) -> Iterator[None]:
    """Turns what a user can mend into one sentence and exit code 2."""
    try:
        yield
    except UserError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns Ctrl-C into the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        again = " ".join(shlex.quote(word) for word in ["bench", *sys.argv[1:]])
        click.echo(f"\nStopped. Finished runs are kept; go on with:\n  {again}", err=True)
        sys.exit(130)


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="bench")
def main() -> None:
    """A benchmark and leaderboard for industrial image anomaly detection."""


@main.command()
@_with(_RUN_OPTIONS)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which a run is ended."
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
def run(timeout: float | None, report: bool, report_to: Path, quiet: bool, debug: bool, **given: Any) -> None:
    """Run methods on datasets, then write the leaderboard. Alone: the demo.

    Finished runs are kept, so that the same command goes on where it was stopped.
    """
    with _sentences(debug), _stoppable():
        from rich.console import Console

        console = Console(highlight=False)
        suite, options, plan = _plan(given)
        from harness.run import run_plan

        if not quiet:
            console.print(
                f"{suite.title}: {_counts(plan)}, at {suite.image_size} px on {options.device}.", markup=False
            )
        records = run_plan(plan, options.results, timeout, quiet, console)
        failures = [record for record in records if record.outcome != "ok"]
        if report:
            _report(options.results, report_to, console, quiet)
        if failures:
            click.echo(
                f"{len(failures)} of {len(records)} runs failed; their records hold the traceback.", err=True
            )
            sys.exit(1)


@main.command()
@_with(_RUN_OPTIONS)
def plan(debug: bool, **given: Any) -> None:
    """Print what `bench run` with the same options would do."""
    with _sentences(debug):
        from rich.console import Console

        from harness.plan import expected_time

        suite, options, plan = _plan(given)
        console = Console(highlight=False)
        console.print(
            f"{suite.title}: {_counts(plan)}, at {suite.image_size} px on {options.device}.", markup=False
        )
        for task in plan.tasks:
            state = "done " if task.key in plan.done else "to do"
            console.print(f"  {state}  {task.spec.label()}", markup=False)
        console.print(expected_time(plan, options.results), markup=False)


@main.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("report"), show_default=True)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def report(results: Path, output: Path, debug: bool) -> None:
    """Write leaderboard.csv, index.html and LaTeX tables from the records."""
    with _sentences(debug):
        from rich.console import Console

        _report(results, output, Console(highlight=False), quiet=False)


@main.group("list")
def list_() -> None:
    """List what there is to run."""


@list_.command("datasets")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
def list_datasets(data_root: Path | None) -> None:
    """Datasets that have a card, and what of them is on disk."""
    from harness.dataset import card_names, load_card, on_disk

    for name in card_names():
        card = load_card(name)
        unverified = "" if card.licence_verified else " (unverified)"
        click.echo(f"{name:12} {card.title} · {len(card.categories)} categories · {card.licence}{unverified}")
        click.echo(f"{'':12} on disk: {on_disk(card, data_root)}")


@list_.command("suites")
def list_suites() -> None:
    """Suites that come with ulsad-bench."""
    from harness.suite import load_suite, suite_names

    for name in suite_names():
        click.echo(f"{name:12} {load_suite(name).title}")


@main.group()
def data() -> None:
    """Look after datasets."""


@data.command()
@click.argument("dataset")
@click.option("--categories", callback=_names, help="Comma-separated; all by default.")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def check(dataset: str, categories: list[str] | None, data_root: Path | None, debug: bool) -> None:
    """Compare a dataset on disk with its card."""
    with _sentences(debug):
        from harness.datacheck import check_dataset
        from harness.dataset import load_card
        from harness.images import cache_dir

        problems = check_dataset(load_card(dataset), categories, data_root, cache_dir())
        for problem in problems:
            path = f"{problem.path}: " if problem.path else ""
            click.echo(f"{problem.severity}: {problem.category}: {path}{problem.message}")
        errors = sum(problem.severity == "error" for problem in problems)
        click.echo(f"{dataset}: {errors} errors, {len(problems) - errors} warnings.")
        sys.exit(1 if errors else 0)


@main.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show the cache of decoded images; `bench cache clear` empties it."""
    if context.invoked_subcommand is None:
        from harness.images import cache_dir, cache_entries

        entries = cache_entries(cache_dir())
        size = sum(entry.bytes for entry in entries)
        click.echo(f"{cache_dir()}: {len(entries)} entries, {size / 1e6:.1f} MB")


@cache.command()
def clear() -> None:
    """Remove everything from the cache; it is made again when needed."""
    from harness.images import cache_dir, clear_cache

    count, size = clear_cache(cache_dir())
    click.echo(f"Removed {count} entries, {size / 1e6:.1f} MB.")


def _plan(given: dict[str, Any]) -> tuple[Suite, Options, Plan]:
    """Turns options into a plan; nothing given means the suite's own value."""
    import logging

    from harness.images import cache_dir
    from harness.measure import find_device
    from harness.plan import Options, make_plan
    from harness.spec import Suite
    from harness.suite import load_suite, override

    logging.getLogger("timm").setLevel(logging.ERROR)
    keep = frozenset(given["keep"] or ())
    if stray := sorted(keep - {"maps", "weights"}):
        raise UserError(f"--keep {stray[0]}: there are maps and weights to keep.")
    own = {name: given[name] for name in ("methods", "datasets", "categories", "seeds", "protocols")}
    own |= {"image_size": given["image_size"], "backbone": given["backbone"]}
    chosen = {name: value for name, value in own.items() if value is not None}
    base = load_suite(given["suite"] or "demo")
    if given["suite"] is None and "datasets" in chosen:
        # A run of one's own, at the papers' values: nothing of the demo's cut trainings and small images.
        base = Suite(title="Runs", methods=base.methods, datasets=chosen["datasets"])
    suite = override(base, chosen, given["assignments"])
    options = Options(
        device=find_device(given["device"]),
        data_root=given["data_root"],
        results=given["results"],
        cache=cache_dir(),
        overwrite=given["overwrite"],
        limit_train=given["limit_train"],
        backbone_weights=given["backbone_weights"],
        keep=keep,
    )
    plan = make_plan(suite, options)
    if given["backbone"] and not any("backbone" in task.identity.config for task in plan.tasks):
        raise UserError(f"No method of this run has a backbone to set to '{given['backbone']}'.")
    return suite, options, plan


def _counts(plan: Plan) -> str:
    damaged = f", {len(plan.damaged)} damaged records" if plan.damaged else ""
    return f"{len(plan.tasks)} runs, {len(plan.done)} done, {len(plan.todo)} to do{damaged}"


def _report(results: Path, output: Path, console: Any, quiet: bool) -> None:
    """Writes the report through the entry point of ``reports``, which the harness does not know by name."""
    from importlib.metadata import entry_points

    writers = entry_points(group="ulsad_bench.reports", name="default")
    if not writers:
        raise UserError("The report writer is not installed: reinstall ulsad-bench.")
    lines = next(iter(writers)).load()(results, output)
    if not quiet:
        for line in lines:
            console.print(line, markup=False) if isinstance(line, str) else console.print(line)


register(main, list_)


if __name__ == "__main__":
    main()
