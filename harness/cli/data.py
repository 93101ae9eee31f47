"""``bench data``, ``bench cache`` and ``bench prepare``: what runs need, and where it lies."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import RUN_OPTIONS, Finite, names, run_options, sentences, with_options
from harness.common.errors import UserError

if TYPE_CHECKING:
    from harness.data.card import Card


@click.group()
def data() -> None:
    """Look after datasets."""


@data.command()
@click.argument("dataset")
@click.option("--categories", callback=names, help="Comma-separated; all by default.")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def check(dataset: str, categories: list[str] | None, data_root: Path | None, debug: bool) -> None:
    """Compare a dataset on disk with its card."""
    with sentences(debug):
        from harness.checks.dataset.completeness import check_dataset
        from harness.common.files import cache_dir
        from harness.data.card import load_card

        problems = check_dataset(load_card(dataset), categories, data_root, cache_dir())
        for problem in problems:
            path = f"{problem.path}: " if problem.path else ""
            click.echo(f"{problem.severity}: {problem.category}: {path}{problem.message}")
        errors = sum(problem.severity == "error" for problem in problems)
        click.echo(f"{dataset}: {errors} errors, {len(problems) - errors} warnings.")
        sys.exit(1 if errors else 0)


@data.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--categories", callback=names, help="Comma-separated; by default all that are on disk.")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option(
    "--max-mask",
    type=Finite(0, 100),
    default=50.0,
    show_default=True,
    help="Percent of an image from which a mask looks too large.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("audit.html"),
    show_default=True,
    help="The page.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def audit(
    datasets: tuple[str, ...],
    categories: list[str] | None,
    data_root: Path | None,
    max_mask: float,
    output: Path,
    debug: bool,
) -> None:
    """Look for near duplicates, odd masks, and shifts between splits.

    What is found is for a person to look at, on one page with pictures, and fails nothing: the exit code is 0
    unless a file cannot be read. docs/data.md says what counts.
    """
    with sentences(debug):
        from rich.console import Console

        from harness.checks.dataset.audit import audit_dataset
        from harness.checks.dataset.page import audit_page
        from harness.checks.dataset.show import print_audit
        from harness.common.files import cache_dir, write_atomically
        from harness.data.card import load_card

        cards = [load_card(name) for name in datasets]
        found = [
            one for card in cards for one in audit_dataset(card, categories, data_root, cache_dir(), max_mask)
        ]
        print_audit(found, Console(highlight=False))
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output, audit_page(found).encode())
        except OSError as error:
            raise UserError(f"{output} cannot be written ({error.strerror or error}).") from error
        click.echo(f"Pictures: {output}")


@data.command()
@click.argument("dataset")
@click.option("--accept-licence", is_flag=True, help="Accept the dataset's licence without being asked.")
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def fetch(dataset: str, accept_licence: bool, data_root: Path | None, debug: bool) -> None:
    """Download a dataset and unpack it below the data root."""
    with sentences(debug):
        from rich.console import Console

        from harness.data.card import load_card
        from harness.data.fetch import fetch_dataset, present_folder
        from harness.execution.progress import download_bar

        card = load_card(dataset)
        if card.generator:
            click.echo(card.note)
            return
        if data_root is None:
            raise UserError("Where to put the dataset? Give --data-root, or set BENCH_DATA.")
        if (folder := present_folder(card, data_root)) is not None:
            click.echo(f"{folder} is there already; `bench data check {dataset}` compares it with the card.")
            return
        _show_licence(card)
        if card.archives:
            _accept(card, accept_licence)
        folder = fetch_dataset(card, data_root, partial(download_bar, Console()))
        click.echo(f"{card.title} lies in {folder}; `bench data check {dataset}` compares it with the card.")


def _show_licence(card: Card) -> None:
    doubt = "" if card.licence_verified else " (no licence file confirms it)"
    click.echo(f"{card.title}\n  licence:  {card.licence}{doubt}\n  homepage: {card.homepage}")


def _accept(card: Card, accepted: bool) -> None:
    if accepted:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"{card.title} is given under {card.licence}: read it on {card.homepage}, and if you accept it, "
            "give --accept-licence."
        )
    if not click.confirm("Do you accept the licence?"):
        raise UserError(f"{card.title} is not fetched, because its licence was not accepted.")


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show what the cache holds; `bench cache clear` empties it of what can be made again."""
    if context.invoked_subcommand is None:
        from harness.common.cache import cache_entries
        from harness.common.files import cache_dir

        entries = cache_entries(cache_dir())
        size = sum(entry.bytes for entry in entries)
        click.echo(f"{cache_dir()}: {len(entries)} entries, {size / 1e6:.1f} MB")
        for kind in dict.fromkeys(entry.kind for entry in entries):
            own = [entry.bytes for entry in entries if entry.kind == kind]
            click.echo(f"  {kind}: {len(own)}, {sum(own) / 1e6:.1f} MB")


@cache.command()
@click.option("--downloads", is_flag=True, help="Remove downloaded weights and assets too.")
def clear(downloads: bool) -> None:
    """Remove all that is made again when needed: decoded images, hashes, the demo, copies of records."""
    from harness.common.cache import clear_cache
    from harness.common.files import cache_dir

    count, size = clear_cache(cache_dir(), downloads)
    click.echo(f"Removed {count} entries, {size / 1e6:.1f} MB.")


@click.command()
@with_options(RUN_OPTIONS)
@click.option("--offline", is_flag=True, help="Download nothing: only say what is there.")
def prepare(offline: bool, debug: bool, **given: Any) -> None:
    """Download what `bench run` with the same options needs, and say what is to be done by hand.

    A run itself never downloads. Exit code 0 means that everything is there.
    """
    with sentences(debug):
        from rich.console import Console

        from harness.execution.progress import download_bar
        from harness.registry.prepare import prepare as items

        asked, bar = run_options(given), partial(download_bar, Console())
        pretrained = asked.backbone_weights == "pretrained"
        missing = 0
        for item in items(asked.chosen_suite(), asked.places, bar, offline, pretrained):
            click.echo(f"{item.state:8} {item.what}: {item.note}")
            missing += item.state == "missing"
        click.echo(f"{missing} missing." if missing else "Everything is there.")
        sys.exit(1 if missing else 0)
