"""Records of other post-processing, from the kept parts of one run: nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import numpy as np
import torch

from harness.assess import BATCH
from harness.dataset import load_card, read_category
from harness.errors import UserError
from harness.evaluate import evaluate, read_truth
from harness.execute import RunTask, common, failed
from harness.maps import DamagedMapsError, load_parts
from harness.registry import configure, load_method
from harness.roles import remaining
from harness.spec import RunRecord, Scalar, Suite
from harness.store import read_record, record_path


def combinations(suite: Suite, method: str) -> Iterator[dict[str, Scalar]]:
    """Yields every combination of a suite's grid for a method, none where it has no grid."""
    grid = suite.grid.get(method, {})
    if grid:
        for values in product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def make_record(task: RunTask) -> RunRecord:
    """Returns the record of a task with ``made_from``: equal to what its own training would give.

    The record has no timings, as there was no run; whatever goes wrong ends up in it.
    """
    base = task.made_from
    if base is None:
        raise ValueError("the task is to be trained")
    # Computed here, where there need not be the device that the run had.
    task = replace(task, device="cpu")
    path = record_path(base.results, base.spec, base.key)
    trained = read_record(path)
    if isinstance(trained, str) or trained.outcome != "ok":
        return failed(task, "failed", f"the run {base.key}, from whose parts this is made, has no numbers")
    try:
        raw, statistics = load_parts(path.with_suffix(".parts.safetensors"))
        metrics = _metrics(task, raw, statistics, trained.counts.get("moved", 0))
    except (DamagedMapsError, UserError) as error:
        return failed(task, "failed", f"made from the run {base.key}: {error}")
    found = common(task)
    found["environment"] = trained.environment
    found["finished"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    return RunRecord(
        **found,
        outcome="ok",
        metrics=metrics,
        selected_epoch=trained.selected_epoch,
        epochs=trained.epochs,
        counts=trained.counts,
        made_from=base.key,
    )


def _metrics(
    task: RunTask, raw: dict[str, np.ndarray], statistics: dict[str, np.ndarray], moved: int
) -> dict[str, dict[str, float | None]]:
    method = load_method(task.method)
    config = configure(method, task.spec.method, task.identity.config)
    known = {name: torch.from_numpy(array) for name, array in statistics.items()}
    finish = method.postprocessor(config, known, task.spec.image_size)
    count = len(next(iter(raw.values())))
    predictions = []
    # Batches as in a run, so that the sums within them are the same to the last bit.
    for start in range(0, count, BATCH):
        part = {name: torch.from_numpy(array[start : start + BATCH]) for name, array in raw.items()}
        predictions.append(finish(part))
    card = load_card(task.card)
    data = read_category(card, task.spec.category, task.data_root, task.cache)
    rows = remaining([sample.kind for sample in data.test], moved, task.spec.seed)
    if len(rows) != count:
        raise UserError(f"its parts are those of {count} images, there are {len(rows)} test images")
    truth = read_truth(card, data.test, task.spec, task.data_root, task.cache, rows)
    scores = torch.cat([p.score for p in predictions]).numpy()
    maps = torch.cat([p.map for p in predictions]).numpy()
    return evaluate(truth, scores, maps, task.split_categories or {}, task.spec.category)
