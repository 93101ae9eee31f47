"""``bench efficiency``: costs alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.cli_options import RUN_OPTIONS, sentences, with_options

RESULTS = Path("efficiency")


def command(run: click.Command, report: Any) -> click.Command:
    """Returns the command.

    Args:
        run: ``bench run``, which executes.
        report: writes a report from a results folder, as ``bench report`` does.
    """

    @click.command("efficiency")
    @with_options(RUN_OPTIONS)
    @click.option(
        "--report-to",
        type=click.Path(path_type=Path),
        default=RESULTS / "report",
        show_default=True,
        help="Folder of the tables.",
    )
    @click.option("--quiet", is_flag=True, help="Say only what failed.")
    @click.pass_context
    def efficiency(
        context: click.Context, /, report_to: Path, quiet: bool, debug: bool, **given: Any
    ) -> None:
        """Measure speed, memory and size: Table 4 with more columns. The scores mean nothing.

        Alone: the suite `efficiency`, nine methods after one pass of training, results in `efficiency`. Speed
        does not depend on weights: `--backbone-weights none` needs no download, and is marked.
        """
        given["suite"] = given["suite"] or "efficiency"
        if context.get_parameter_source("results") is ParameterSource.DEFAULT:
            given["results"] = RESULTS
        options = {"timeout": None, "report": False, "report_to": report_to, "quiet": quiet, "debug": debug}
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
            report(given["results"], report_to, console, quiet, wanted="efficiency", only_tables=True)
        sys.exit(code)

    return efficiency
