"""``bench list methods`` and ``bench test-method``: what there is to run, and whether it keeps its word."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from harness.cli.options import Finite, sentences
from harness.common.errors import UserError

if TYPE_CHECKING:
    from harness.method import Method


@click.command("test-method")
@click.argument("name")
@click.option("--set", "assignments", multiple=True, metavar="PARAM=VALUE", help="Hyper-parameter.")
@click.option("--backbone", default="", help="timm backbone, for a method that has one.")
@click.option(
    "--backbone-weights",
    type=click.Choice(["pretrained", "none"]),
    default="none",
    show_default=True,
    help="The contract holds with random weights too, and they are always at hand.",
)
@click.option("--image-size", type=click.IntRange(16, 1024), default=64, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--timeout", type=Finite(min=1), default=300, show_default=True, help="Seconds for one step.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def test_method(
    name: str,
    assignments: tuple[str, ...],
    backbone: str,
    backbone_weights: str,
    image_size: int,
    device: str,
    timeout: float,
    debug: bool,
) -> None:
    """Check a method against its contract: NAME[parameters] or path/to/file.py:MyMethod.

    It is trained briefly on small synthetic images, in processes of its own. Exits with 1 if there is a
    breach.
    """
    with sentences(debug):
        from harness.checks.contract.checks import check_method, prepare_case
        from harness.registry.names import parse_value

        settings: dict[str, str | list[str]] = {}
        for item in assignments:
            key, equals, value = item.partition("=")
            if not key or not equals:
                raise UserError(f"--set {item}: give PARAM=VALUE.")
            settings[key.strip()] = parse_value(value)
        try:
            case = prepare_case(
                name,
                settings=settings,
                backbone=backbone,
                pretrained=backbone_weights == "pretrained",
                image_size=image_size,
                device=device,
                timeout=timeout,
            )
            click.echo(f"{case.label}, {case.image_size} px, on {case.device}:")
            findings = check_method(case)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            sys.exit(130)
    for finding in findings:
        click.echo(finding.line())
    breaches = sum(finding.state == "breach" for finding in findings)
    click.echo(f"{breaches} breaches." if breaches else "The method keeps its contract.")
    sys.exit(1 if breaches else 0)


@click.command("methods")
@click.option("--all", "everything", is_flag=True, help="Also every member of every family, anomalib:Stfpm.")
def list_methods(everything: bool) -> None:
    """Methods that are installed: version, licence, paper, and what they need."""
    from harness.registry.methods import (
        family_measured,
        family_members,
        family_names,
        load_method,
        method_names,
    )

    names = method_names()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            click.echo(f"{name:{width}}  {_described(load_method(name))}")
        except UserError as error:
            click.echo(f"{name:{width}}  {error}")
    for family in family_names():
        if not everything:
            click.echo(f"{family}:NAME  a family of methods; `bench list methods --all` shows them")
            continue
        members = family_members(family)
        if not members:
            click.echo(f'{family}:NAME  none here: pip install "ulsad-bench[{family}]"')
        measured = family_measured(family)
        for member, reason in members.items():
            runs = ", ".join(filter(None, ("runs here", measured.get(member))))
            click.echo(f"{family}:{member}  {'cannot run here: it ' + reason if reason else runs}")


def _described(method: type[Method]) -> str:
    """Returns version, licence, paper and needs under the default configuration, in one line."""
    citation, needs = method.citation, method.needs(method.Config())
    last = citation.authors.split(" and ")[0].split(",")[0]
    parts = [f"version {method.version}", citation.licence, f"{last} {citation.year}"]
    wanted = [f"weights of {name}" for name in needs.backbones]
    wanted += [asset.name for asset in needs.assets]
    wanted += [f'pip install "ulsad-bench[{needs.extra}]"'] if needs.extra else []
    return " · ".join([*parts, "needs " + ", ".join(wanted) if wanted else "needs nothing"])
