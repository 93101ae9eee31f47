"""What several commands of ``bench`` share: their options, and how errors are said."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.common.defaults import CHECKPOINT_EVERY, MEASURING_SHARE
from harness.common.errors import UserError

if TYPE_CHECKING:
    from harness.planning.options import RunOptions

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_MOST_SEEDS = 10_000
_MOST_PACKED = 64


class Finite(click.FloatRange):
    """A number as options take it: neither NaN, beside which nothing is ever larger, nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number.

        Raises:
            click.BadParameter: it is none, not finite, or out of range.
        """
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Splits at the commas outside brackets."""
    if value is None:
        return None
    from harness.registry.names import split_names

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
        begin, end = int(first[:20]), int((last or first)[:20])
        if max(begin, end) >= 2**31:
            raise click.BadParameter("a seed must be below 2147483648.")
        if len(seeds) + end - begin >= _MOST_SEEDS:
            raise click.BadParameter(f"'{part}' makes more than {_MOST_SEEDS} seeds.")
        seeds += range(begin, end + 1)
    return seeds


def _shares(_: click.Context, __: click.Parameter, value: str | None) -> list[float] | None:
    """Reads ``0,0.01,0.1``."""
    if value is None:
        return None
    try:
        shares = [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is no list of shares; give e.g. 0,0.05.") from error
    if not all(0 <= share < 0.5 for share in shares):
        raise click.BadParameter("a share must be at least 0 and below 0.5: 0.05 is 5 %.")
    return shares


def packing(_: click.Context, __: click.Parameter, value: str) -> int | Literal["auto"]:
    """Reads a number of runs, or ``auto``."""
    if value == "auto":
        return "auto"
    if not value.isdecimal() or not 1 <= int(value[:9]) <= _MOST_PACKED:
        raise click.BadParameter(f"'{value}' is no number from 1 to {_MOST_PACKED}, and not auto.")
    return int(value)


RUN_OPTIONS = (
    click.option("--suite", default=None, help="Built-in suite or path/to/suite.toml.  [default: demo]"),
    click.option(
        "--methods", callback=names, help="Comma-separated; all; ulsad[lambda_l=0]; my.py:MyMethod."
    ),
    click.option("--datasets", callback=names, help="Comma-separated names, paths of cards, or all."),
    click.option("--categories", callback=names, help="Comma-separated; category or dataset/category."),
    click.option("--seeds", callback=_seeds, help="E.g. 0,1,2 or 0-4."),
    click.option(
        "--protocol",
        "protocols",
        callback=names,
        help="Comma-separated: strict, paper, or one of docs/suites.md.",
    ),
    click.option(
        "--contamination",
        callback=_shares,
        help="Shares of anomalous images among the training images, moved from the test set: 0,0.05.",
    ),
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
    click.option(
        "--evaluate",
        type=click.Choice(["input", "native"]),
        help="Pixel metrics at the size of the input, or of the masks' files.  [default: input]",
    ),
    click.option("--limit-train", type=click.IntRange(1), help="At most so many training images."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda:N; all GPUs: all; a worker for each of several: cuda:0,cuda:1.",
    ),
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
        "--checkpoint-every",
        type=Finite(min=0),
        default=CHECKPOINT_EVERY,
        show_default=True,
        help="Seconds between two checkpoints of a training at least; 0 for every epoch.",
    ),
    click.option(
        "--measure",
        type=Finite(min=0),
        help="Seconds for measuring speed and memory of each run; 0 for none.  "
        f"[default: {100 * MEASURING_SHARE:g} % of its time]",
    ),
    click.option("--keep", callback=names, help="Leave beside the records: maps, weights, parts."),
    click.option("--debug", is_flag=True, help="Show tracebacks."),
)


class RunCommand(click.Command):
    """A command with the options of all executors that are installed, which are loaded for it alone."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Returns its options, those of executors behind its own."""
        from harness.execution.executors.choose import executors

        own = super().get_params(ctx)
        found = executors()
        about = "; ".join(f"{name}: {executor.about}" for name, executor in found.items())
        chosen = click.Option(
            ["--executor", "executor_name"],
            default="local",
            show_default=True,
            help=f"What executes the runs. {about}.",
        )
        theirs = [
            click.Option([option.name], type=_KINDS[option.kind], help=option.help)
            for executor in found.values()
            for option in executor.options
        ]
        help_ = [param for param in own if "--help" in param.opts]
        return [*(param for param in own if param not in help_), chosen, *theirs, *help_]


_KINDS: dict[type, Any] = {str: click.STRING, int: click.IntRange(min=0), float: Finite(min=0)}


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """Gives a command several options."""

    def apply(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


@contextmanager
def sentences(debug: bool) -> Iterator[None]:
    """Turns what a user can mend into one sentence and exit code 2."""
    try:
        yield
    except UserError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # Any path of a command line may be one that no system call takes.
        if debug or error.errno != errno.ENAMETOOLONG:
            raise
        name = f" {str(error.filename)[:60]}…" if error.filename else ""
        click.echo(f"Error: The path{name} is too long for this system: give a shorter one.", err=True)
        sys.exit(2)


def run_options(given: dict[str, Any], **more: Any) -> RunOptions:
    """Returns the value of the options that click has read; what remains are those of executors.

    Raises:
        UserError: an option has a value that it cannot have.
    """
    from harness.planning.options import RunOptions

    own = {one.name for one in fields(RunOptions)}
    known = {name: value for name, value in given.items() if name in own}
    known["keep"] = given["keep"] or ()
    theirs = {name: value for name, value in given.items() if name not in own}
    executor = theirs.pop("executor_name", None) or "local"
    return RunOptions(executor=executor, executor_options=theirs, **known, **more)
