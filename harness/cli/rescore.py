"""``bench rescore``: the metrics of records with kept maps, computed again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import names, sentences

if TYPE_CHECKING:
    from harness.execution.rescore import Rescored
    from harness.spec.record import RunRecord


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option("--cards", callback=names, help="Cards of datasets of one's own: comma-separated paths.")
@click.option(
    "--metrics", "only", callback=names, help="Only these: comma-separated; others stay. [default: all]"
)
@click.option("--dry-run", is_flag=True, help="Print old and new values, write nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def rescore(
    results: Path,
    data_root: Path | None,
    cards: list[str] | None,
    only: list[str] | None,
    dry_run: bool,
    debug: bool,
) -> None:
    """Compute all metrics again from the maps that `--keep maps` left, without any method.

    Records keep their names. One is refused, named and left as it is if it has no kept maps, if they are
    damaged or of another shape, or if the category's files on disk have changed; then the exit code is 1.
    Under the paper protocol the kept maps are those of the selected epoch: the metrics of the last epoch
    stay as they were.
    """
    with sentences(debug):
        from harness.common.files import cache_dir
        from harness.common.places import Places
        from harness.execution.rescore import rescore as again

        done = refused = failed = 0
        places = Places(cache_dir(), data_root, results)
        for one in again(places, cards or [], not dry_run, only or ()):
            click.echo(_line(one))
            if dry_run and one.old and one.new:
                _print_values(one.old, one.new)
            done += one.new is not None
            refused += bool(one.refused)
            failed += not one.new and not one.refused
        rest = f", {failed} of failed runs left alone" if failed else ""
        click.echo(f"{done} records {'would be ' * dry_run}re-scored, {refused} refused{rest}.")
        sys.exit(1 if refused else 0)


def _line(one: Rescored) -> str:
    if one.refused:
        return f"refused    {one.label}: {one.refused}"
    if one.old is None or one.new is None:
        return f"failed run {one.label}"
    from harness.execution.rescore import metric_differences

    values = list(metric_differences(one.old.metrics, one.new.metrics))
    changes = [(abs(b - a), name) for name, a, b in values if a is not None and b is not None]
    largest = "largest change {:.1e} ({})".format(*max(changes)) if changes else "no value to compare"
    if other := sum((a is None) != (b is None) for _, a, b in values):
        largest += f", {other} defined on one side only"
    before, after = (r.fingerprint.metrics_version for r in (one.old, one.new))
    version = f"metrics version {before} → {after}, " if before != after else ""
    return f"re-scored  {one.label}: {version}{largest}"


def _print_values(before: RunRecord, after: RunRecord) -> None:
    from harness.execution.rescore import metric_differences

    for name, a, b in metric_differences(before.metrics, after.metrics):
        change = f"{b - a:+.6f}" if a is not None and b is not None else ""
        old, new = ("–" if value is None else f"{value:.6f}" for value in (a, b))
        click.echo(f"    {name:28} {old:>8} → {new:>8} {change}")
