"""``bench list suites``: what each suite shows, how many runs it has, and their hours by earlier records."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import sentences


@click.command("suites")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Earlier records, by which costs are predicted.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def list_suites(results: Path, debug: bool) -> None:
    """Suites that come with ulsad-bench: runs, and their hours by earlier records."""
    with sentences(debug):
        from harness.planning.cost_estimate import predicted, size_of
        from harness.planning.suites import load_suite, suite_names
        from harness.results.store import Folder, recent_records

        records = recent_records(Folder(results))
        for name in suite_names():
            suite = load_suite(name)
            size = size_of(suite)
            points = f", {size.points} more from kept parts" if size.points else ""
            click.echo(f"{name:20} {suite.title}")
            click.echo(f"{'':20} {size.runs} runs{points} · {predicted(suite, size, records)}")
