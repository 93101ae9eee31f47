"""``bench doctor``: what is installed and on disk, and what to do about what is missing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.checks.doctor import Diagnosis


@click.command()
@click.option("--data-root", envvar="BENCH_DATA", type=click.Path(path_type=Path), help="Folder of datasets.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(data_root: Path | None, results: Path, as_json: bool) -> None:
    """Say what is installed and on disk, and what to do about what is missing.

    Nothing is downloaded. Exits with 1 if something keeps the demo from running.
    """
    from harness.checks.doctor import examine

    section = ""
    findings = []
    for finding in examine(data_root, results):
        findings.append(finding)
        if not as_json:
            if finding.section != section:
                click.echo(f"{finding.section}:")
                section = finding.section
            _say(finding)
    problems = sum(finding.state == "problem" for finding in findings)
    missing = sum(finding.state == "missing" for finding in findings)
    if as_json:
        answer = {"demo_runs": not problems, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(answer, indent=1))
    else:
        runs = f"{problems} problems keep the demo from running" if problems else "The demo can run"
        click.echo(f"{runs}; {missing} things are missing that it does not need.")
    sys.exit(1 if problems else 0)


def _say(finding: Diagnosis) -> None:
    click.echo(f"  {finding.state:8}{finding.name}: {finding.text}")
    if finding.remedy:
        click.echo(f"{'':10}→ {finding.remedy}")
