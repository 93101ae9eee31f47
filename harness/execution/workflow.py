"""The whole of `bench run`, top to bottom: suite → plan → order → runs → records → report."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.common.errors import UserError
from harness.data.unscored import official_counts
from harness.execution.executors.choose import opened
from harness.execution.pipeline import Session, run_plan
from harness.planning.options import RunOptions
from harness.planning.order import in_order
from harness.planning.packing import pack
from harness.planning.plan import Plan, plan_of
from harness.registry.methods import stated_versions
from harness.results.store import read_record
from harness.spec.record import RunRecord
from harness.spec.suite import Suite

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """What came of the runs that were asked for.

    Attributes:
        records: of each run that has one, whether it was done now or before.
        new: those that were done now.
        folder: the results folder.
    """

    records: tuple[RunRecord, ...]
    new: tuple[RunRecord, ...]
    folder: Path

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs that were done now and have no numbers; :attr:`RunRecord.failure` says why."""
        return tuple(record for record in self.new if record.outcome != "ok")

    def table(self) -> pd.DataFrame:
        """Returns a row for each run, split and metric.

        Columns: ``dataset``, ``category``, ``method``, ``seed``, ``protocol``, ``outcome``, ``split``
        (``all`` or a kind of anomalies), ``metric``, ``value`` (in [0, 1], NaN where it is undefined) and
        ``key``, the name of the record. A run without numbers has one row, without split, metric and value.
        """
        import pandas as pd

        columns = ["dataset", "category", "method", "seed", "protocol", "outcome"]
        columns += ["split", "metric", "value", "key"]
        rows = [row for record in self.records for row in _rows(record)]
        return pd.DataFrame(rows, columns=columns).astype({"value": float})


def _rows(record: RunRecord) -> Iterable[tuple[object, ...]]:
    spec = record.spec
    head = (spec.dataset, spec.category, spec.method, spec.seed, spec.protocol, record.outcome)
    if record.outcome != "ok":
        yield (*head, None, None, None, record.key)
    for split, values in record.metrics.items():
        for metric, value in values.items():
            yield (*head, split, metric, value, record.key)


def run(asked: RunOptions | None = None, **options: Any) -> Results:
    """Runs methods on datasets as `bench run` does, and returns what came of it.

    Finished runs are kept, so that the same call goes on where an earlier one was stopped.

    Args:
        asked: what to run; or instead its fields by name.
        **options: see :class:`RunOptions`.

    Raises:
        UserError: anything is wrong that would stop a run; nothing has been started.
    """
    asked = RunOptions(**options) if asked is None else asked
    console = Console(highlight=False)
    logging.getLogger("timm").setLevel(logging.ERROR)
    if asked.executor != "local" and asked.pack != 1:
        raise UserError(
            f"--pack {asked.pack} is for --executor local: give Ray --per-run 0.5 for two on each."
        )
    with opened(asked.executor, asked.device, asked.executor_options) as place:
        suite = asked.chosen_suite()
        plan, forecast = plan_of(suite, asked, place.devices)
        plan, devices = pack(plan, forecast, place.devices, asked.pack)
        plan = in_order(plan, forecast, len(devices))
        if not asked.quiet:
            console.print(headline(suite, place.about, plan), markup=False)
        session = Session(
            asked.places.results, devices, console, asked.quiet, asked.timeout, place.run_all, forecast
        )
        new = run_plan(plan, session, asked.command)
    if asked.report_to is not None:
        write_report(asked.places.results, Path(asked.report_to), None if asked.quiet else console)
    return _results(plan, new, asked.places.results)


def headline(suite: Suite, where: str, plan: Plan) -> str:
    """Says in one line what there is to do."""
    damaged = f", {len(plan.damaged)} damaged records" if plan.damaged else ""
    counts = f"{len(plan.tasks)} runs, {len(plan.done)} done, {len(plan.todo)} to do{damaged}"
    return f"{suite.title}: {counts}, at {suite.image_size} px on {where}."


def write_report(results: Path, output: Path, console: Console | None, **given: Any) -> None:
    """Writes the report through the entry point of ``reports``, which the harness does not know by name.

    Args:
        results: the results folder.
        output: the report's folder.
        console: where to say what was written; ``None`` for nowhere.
        **given: options of ``reports.write.write``.

    Raises:
        UserError: there is no report writer, or nothing to report.
    """
    writers = entry_points(group="ulsad_bench.reports", name="default")
    if not writers:
        raise UserError("The report writer is not installed: reinstall ulsad-bench.")
    known = {"versions": stated_versions(), "test_images": official_counts()}
    for line in next(iter(writers)).load()(results, output, **known, **given):
        if console is not None:
            console.print(line, markup=False) if isinstance(line, str) else console.print(line)


def _results(plan: Plan, new: list[RunRecord], folder: Path) -> Results:
    """The records of a plan's runs: those that were done now, and those that are kept."""
    now = {record.key: record for record in new}
    found = []
    for task in plan.tasks:
        record = now.get(task.key) or read_record(task.record_path)
        if isinstance(record, RunRecord):
            found.append(record)
    return Results(tuple(found), tuple(new), folder)
