"""``bench merge``, ``bench verify`` and ``bench results``: what is done with records after the runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import names, sentences
from harness.common.text import plain

if TYPE_CHECKING:
    from harness.results.merge import Merged

_FOLDER = click.Path(path_type=Path)
_RESULTS = click.option("--results", type=_FOLDER, default=Path("results"), show_default=True)
_DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=_FOLDER)
@click.option("-o", "--output", type=_FOLDER, required=True, help="The union; may be one of the folders.")
@_DEBUG
def merge(sources: tuple[Path, ...], output: Path, debug: bool) -> None:
    """Write the union of results folders: every run once, with what is kept beside it.

    One run with different scores in two folders is a conflict: it is named, nothing is written, and the exit
    code is 1. With equal scores the newer record stays, and a record with scores before one of a failure.
    """
    with sentences(debug):
        from harness.results.merge import merge as unite

        _tell(unite(sources, output), output)


@click.command()
@_RESULTS
@_DEBUG
def verify(results: Path, debug: bool) -> None:
    """Check that records are what their runs wrote; name those that are not, and exit with 1.

    Worked out again: keys, places, fingerprints, checksums, what metrics and counts must agree in, and kept
    maps and weights.
    """
    with sentences(debug):
        from harness.checks.records import twice
        from harness.checks.records import verify as check

        count = bad = unsealed = 0
        for verdict in check(results):
            count += 1
            bad += bool(verdict.wrong)
            unsealed += not verdict.wrong and not verdict.sealed
            if verdict.wrong:
                click.echo(f"{plain(verdict.path)}: {plain('; '.join(verdict.wrong))}.")
        old = f", {unsealed} of them without a checksum, from before there was one" if unsealed else ""
        click.echo(f"{count} records, {bad} wrong{old}.")
        if newer := twice(results):
            click.echo(
                f"{newer} are files and in records.parquet too: the files count, and `bench results compact` "
                "takes them in."
            )
        sys.exit(1 if bad else 0)


@click.group("results")
def results_() -> None:
    """Publish records, take others', and clear away what is not used."""


@results_.command("export")
@click.argument("archive", type=_FOLDER)
@_RESULTS
@click.option("--artefacts", is_flag=True, help="Kept maps, parts, weights and pictures too.")
@_DEBUG
def export_archive(archive: Path, results: Path, artefacts: bool, debug: bool) -> None:
    """Write all records as one archive (.tar.gz): the same records, the same bytes."""
    with sentences(debug):
        from harness.results.archive import export_archive as write

        count = write(results, archive, artefacts)
        click.echo(f"{count} records in {archive}, {archive.stat().st_size / 1e6:.1f} MB.")


@results_.command("import")
@click.argument("archive", type=_FOLDER)
@_RESULTS
@_DEBUG
def import_archive(archive: Path, results: Path, debug: bool) -> None:
    """Merge an archive of `bench results export` into a results folder; conflicts as in `bench merge`."""
    with sentences(debug):
        from harness.results.archive import import_archive as read

        _tell(read(archive, results), results)


@results_.command()
@_RESULTS
@_DEBUG
def compact(results: Path, debug: bool) -> None:
    """Move the records' files into one, records.parquet, which everything reads as if it were they.

    For more than a hundred thousand records. What runs write afterwards are files again, and count before
    what is compacted; the same command takes them in. Maps, weights and pictures stay where they are.
    """
    with sentences(debug):
        from harness.results.compaction import compact as move

        moved = move(results)
        for path, why in moved.left:
            click.echo(f"left      {plain(path)}: {plain(why)}")
        click.echo(
            f"{moved.records} records moved into {results / 'records.parquet'}, {moved.size / 1e6:.1f} MB."
        )
        sys.exit(1 if moved.left else 0)


@results_.command()
@_RESULTS
@_DEBUG
def expand(results: Path, debug: bool) -> None:
    """Write the records in records.parquet as files again, byte for byte."""
    with sentences(debug):
        from harness.results.compaction import expand as move

        click.echo(f"{move(results).records} records are files again in {results}.")


@results_.command()
@_RESULTS
@click.option(
    "--what",
    callback=names,
    default="superseded,orphans",
    show_default=True,
    help="Comma-separated: superseded, failed, damaged, orphans, checkpoints, maps, parts, weights.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this it is only listed.")
@_DEBUG
def prune(results: Path, what: list[str], yes: bool, debug: bool) -> None:
    """List, or with --yes remove, what no table uses: records that newer ones supersede, and the like."""
    with sentences(debug):
        from harness.common.errors import UserError, nearest
        from harness.results.compaction import drop
        from harness.results.prune import WHAT, find_waste

        if stray := [word for word in what if word not in WHAT]:
            raise UserError(f"--what {stray[0]}: there is no such waste. {nearest(stray[0], WHAT)}")
        count = size = 0
        compacted = set[str]()
        for waste in find_waste(results, what):
            click.echo(f"{plain(waste.path)}: {plain(waste.why)}")
            if yes:
                compacted.add(waste.path.relative_to(results).as_posix())
                try:
                    waste.path.unlink(missing_ok=True)
                except OSError as error:
                    raise UserError(f"{waste.path} cannot be removed ({error.strerror or error}).") from error
            count, size = count + 1, size + waste.bytes
        if compacted:
            drop(results, compacted)
        done = "removed" if yes else "to remove: add --yes to do so"
        click.echo(f"{count} files, {size / 1e6:.1f} MB {done}.")


def _tell(merged: Merged, target: Path) -> None:
    """Says what became of a merge, and ends with 1 where anything was left out."""
    for conflict in merged.conflicts:
        click.echo(f"conflict  {plain(conflict)}")
    for path, why in merged.damaged:
        click.echo(f"damaged   {plain(path)}: {plain(why)}")
    if merged.conflicts:
        click.echo(
            f"{len(merged.conflicts)} conflicts, nothing is written: remove one record of each, or make "
            "both again on one machine with `bench run --overwrite always`."
        )
    else:
        left = f", {len(merged.damaged)} damaged left out" if merged.damaged else ""
        click.echo(
            f"{merged.records} records in {target}: {merged.written} written, "
            f"{merged.twice} were there more than once{left}."
        )
    sys.exit(1 if merged.conflicts or merged.damaged else 0)
