"""``bench threshold``, ``bench predict`` and ``bench export``: a trained run at the line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import Finite, sentences, with_options

if TYPE_CHECKING:
    from harness.spec.operating_points import Choice, Costs, Operating
    from harness.spec.record import RunRecord

_PATH = click.Path(path_type=Path)
_RUN = (
    click.argument("run", required=False, type=_PATH),
    click.option("--results", type=_PATH, default=Path("results"), show_default=True),
    click.option("--method", help="Of the run, as it stands in the report: ulsad[lambda_l=0]."),
    click.option("--dataset", help="Of the run."),
    click.option("--category", help="Of the run."),
    click.option("--seed", type=int, help="Of the run."),
    click.option("--protocol", help="Of the run."),
    click.option("--debug", is_flag=True, help="Show tracebacks."),
)


_OWN = (
    click.option("--method-file", default="", metavar="FILE:CLASS", help="Of a run with a private method."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:N."),
)


def _chosen(run: Path | None, results: Path, given: dict[str, Any]) -> tuple[Path, RunRecord]:
    from harness.deployment.trained import Wanted, find_run

    return find_run(run, results, Wanted(**given))


def _operating(record: RunRecord) -> Operating:
    from harness.common.errors import UserError

    if record.operating is None or not record.operating.thresholds:
        why = "; ".join(record.operating.left_out) if record.operating else "it is older than thresholds are"
        raise UserError(
            f"The run {record.spec.label()} has no threshold ({why}): do it again with --overwrite always."
        )
    return record.operating


@click.command()
@with_options(_RUN)
@click.option("--false-alarm-cost", type=Finite(min=0), default=1.0, show_default=True)
@click.option("--miss-cost", type=Finite(min=0), default=1.0, show_default=True)
@click.option(
    "--defect-rate",
    type=Finite(min=0, max=1),
    help="Share of defective parts on the line, 0.01 is 1 %; without it no costs are shown.",
)
def threshold(
    run: Path | None,
    results: Path,
    debug: bool,
    false_alarm_cost: float,
    miss_cost: float,
    defect_rate: float | None,
    **given: Any,
) -> None:
    """Show the thresholds of a RUN (its record's path), what they do, and what that costs."""
    with sentences(debug):
        from harness.spec.operating_points import Costs

        _, record = _chosen(run, results, given)
        operating = _operating(record)
        costs = None if defect_rate is None else Costs(false_alarm_cost, miss_cost, defect_rate)
        _show(record, operating, costs)


def _show(record: RunRecord, operating: Operating, costs: Costs | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.spec.operating_points import choices

    kinds = [group for group in operating.images if group not in ("normal", "all")]
    splits = ["all", *(kinds if len(kinds) > 1 else [])]
    images = operating.images
    counted = (
        f"{operating.validation} normal validation image{'s' * (operating.validation != 1)}; "
        f"test: {images['normal']} normal, "
        f"{images['all']} anomalous"
    )
    table = Table(title=Text(f"{record.spec.label()}\n{counted}"), title_justify="left")
    heads = ["threshold", "", "false alarms", *(f"recall, {split}" for split in splits)]
    for head in [*heads, *(["per 1,000 parts"] if costs else [])]:
        table.add_column(head, no_wrap=head == "threshold")
    rows = [(t.name, t, None) for t in operating.thresholds]
    found = list(choices(operating, costs)) if costs and _both(operating) else []
    for name, chosen, cost in [(c.name, c.threshold, c.cost) for c in found] or rows:
        texts = [name]
        if chosen is None:
            texts += ["–"] * (2 + len(splits))
        else:
            rates = (operating.rate(chosen, group) for group in ("normal", *splits))
            texts += [f"{chosen.value:.6g}", *(rate.text() if rate else "–" for rate in rates)]
        table.add_row(*map(Text, texts), *([f"{1000 * cost:.4g}"] if cost is not None else []))
    console = Console(highlight=False)
    console.print(table)
    for split, values in operating.fpr.items():
        shares = ", ".join(f"{100 * v:.1f} % at {100 * float(k):g} % recall" for k, v in values.items())
        console.print(f"False alarms, {split}: {shares}.", markup=False)
    for note in operating.left_out:
        console.print(f"Note: {note}.", markup=False)
    if found:
        console.print(_advice(found), markup=False)


def _both(operating: Operating) -> bool:
    from harness.common.errors import UserError

    if not (operating.images.get("normal") and operating.images.get("all")):
        raise UserError("Costs need normal and anomalous test images, and the run had not both.")
    return True


def _advice(found: list[Choice]) -> str:
    """What to choose, and how far to trust it."""
    best = min(found, key=lambda choice: choice.cost)
    if best.threshold is None:
        return f"At these costs it is cheapest to {best.name}."
    own = min((c for c in found if c.threshold and c.threshold.target is not None), key=lambda c: c.cost)
    rest = min((c for c in found if c.threshold is None), key=lambda c: c.cost)
    said = f"Of the thresholds from normal images alone, '{own.name}' is the cheapest."
    if rest.cost < own.cost:
        said = f"With every threshold from normal images alone it is cheaper to {rest.name}."
    return (
        f"{said} The cheapest on the test images was chosen on them: its costs are too low, try it on others."
    )


@click.command()
@click.argument("places", nargs=-1, required=True, type=_PATH, metavar="[RUN] IMAGES")
@with_options((*_RUN[1:], *_OWN))
@click.option("-o", "--output", type=_PATH, default=Path("predicted"), show_default=True)
@click.option(
    "--rule", type=click.Choice(["quantile", "extreme value"]), default="quantile", show_default=True
)
@click.option(
    "--false-alarms",
    type=Finite(min=0, max=1),
    default=0.01,
    show_default=True,
    help="Share of normal images that the run's threshold is meant to stop: 0.05 or 0.01.",
)
@click.option("--threshold", type=Finite(), help="One of your own instead.")
@click.option("--maps/--no-maps", default=True, show_default=True, help="Write heat maps.")
def predict(
    places: tuple[Path, ...],
    results: Path,
    debug: bool,
    method_file: str,
    device: str,
    output: Path,
    rule: str,
    false_alarms: float,
    threshold: float | None,
    maps: bool,
    **given: Any,
) -> None:
    """Score new IMAGES with a RUN whose weights were kept: CSV, verdicts, heat maps.

    RUN is the path of a record; without it, options tell which run of --results is meant. The exit code is 1
    where an image could not be read, or its score or map is not finite; all others have theirs.
    """
    with sentences(debug):
        if len(places) > 2:
            raise click.UsageError("give a record's path and a folder of images, or the folder alone.")
        path, record = _chosen(places[0] if len(places) == 2 else None, results, given)
        value = _threshold(record, rule, false_alarms) if threshold is None else threshold
        without = _predict(path, record, places[-1], output, value, maps, method_file, device)
    sys.exit(1 if without else 0)


def _threshold(record: RunRecord, rule: str, target: float) -> float:
    from harness.common.errors import UserError

    operating = _operating(record)
    if found := operating.find(rule, target):
        return found.value
    there = "; ".join(t.name for t in operating.thresholds)
    raise UserError(
        f"The run has no threshold by '{rule}' for {100 * target:g} % false alarms; it has: {there}. Choose "
        "by --rule and --false-alarms, or give --threshold."
    )


def _predict(
    path: Path,
    record: RunRecord,
    images: Path,
    output: Path,
    threshold: float,
    maps: bool,
    method_file: str,
    device: str,
) -> int:
    """Writes scores and heat maps; returns how many images have none."""
    import logging
    from collections import Counter

    from harness.common.errors import UserError
    from harness.common.files import cache_dir, write_atomically
    from harness.common.text import plain
    from harness.deployment.predict import image_files, predictions_csv, write_overlay
    from harness.deployment.predict import predict as score
    from harness.deployment.trained import trained_method
    from harness.execution.devices import find_device

    if maps:
        _operating(record)
    logging.getLogger("timm").setLevel(logging.ERROR)
    found, files = [], image_files(images)
    root = images if images.is_dir() else images.parent
    try:
        with trained_method(path, record, find_device(device), cache_dir(), method_file) as method:
            for one in score(method, record, files, root):
                if one.problem:
                    click.echo(f"Left out: {plain(one.problem)}", err=True)
                if maps and one.map is not None:
                    write_overlay(output / "maps" / f"{one.name}.png", root / one.name, one.map, record)
                found.append(replace(one, map=None))
        write_atomically(output / "scores.csv", predictions_csv(found, threshold))
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}).") from error
    counts = Counter(one.verdict(threshold) for one in found)
    order = ("anomalous", "normal", "unreadable", "not finite")
    verdicts = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
    click.echo(
        f"{len(found)} images at threshold {threshold:.6g}: {verdicts}. Scores: {output / 'scores.csv'}"
    )
    return sum(one.score is None for one in found)


@click.command()
@with_options((*_RUN, _OWN[0]))
@click.option(
    "-o", "--output", type=_PATH, default=Path("model.onnx"), show_default=True, help=".onnx, .pt2, .pt."
)
@click.option("--batch", type=click.IntRange(1), help="Exactly so many images at a time; else any number.")
def export(
    run: Path | None,
    results: Path,
    debug: bool,
    method_file: str,
    output: Path,
    batch: int | None,
    **given: Any,
) -> None:
    """Write a RUN whose weights were kept as a file: uint8 images to score and map.

    .onnx is ONNX, .pt2 torch.export, .pt TorchScript. The file is compared with PyTorch before it is left;
    ONNX in ONNX Runtime.
    """
    with sentences(debug):
        import logging

        from harness.common.files import cache_dir
        from harness.deployment.export import check_output
        from harness.deployment.export import export as write
        from harness.deployment.trained import trained_method

        logging.getLogger("timm").setLevel(logging.ERROR)
        check_output(output)
        path, record = _chosen(run, results, given)
        with trained_method(path, record, "cpu", cache_dir(), method_file) as method:
            difference = write(method, record, output, batch)
        size = record.spec.image_size
        click.echo(f"{output}: images, uint8 [{batch or 'any number'}, 3, {size}, {size}], to score and map.")
        click.echo(f"The largest difference from PyTorch is {difference:.1e} of the largest value.")
        if record.operating and (found := record.operating.find("quantile", 0.01)):
            click.echo(f"Threshold by the quantile for 1 % false alarms: {found.value:.6g}.")
