"""Records of other post-processing, from the kept parts of one run: nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.data.batches import BATCH
from harness.data.card import load_card
from harness.data.category import open_category
from harness.execution.record import Result, failed, make_record
from harness.method import Prediction
from harness.metrics.evaluate import Metrics, evaluate, read_truth
from harness.metrics.thresholds import operating_points
from harness.planning.task import RunTask
from harness.registry.methods import configure, load_method
from harness.results.artefacts import parts_path
from harness.results.maps import DamagedMapsError, KeptParts, load_parts
from harness.results.store import Damaged, read_record
from harness.spec.operating_points import Operating
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord


def record_from_parts(task: RunTask) -> RunRecord:
    """Returns the record of a task with ``made_from``: equal to what its own training would give.

    The record has no timings, as there was no run; whatever goes wrong ends up in it.
    """
    base = task.made_from
    if base is None:
        raise ValueError("the task is to be trained")
    # Computed here, where there need not be the device that the run had.
    task = replace(task, device="cpu")
    path = base.record_path
    trained = read_record(path)
    if isinstance(trained, Damaged) or trained.outcome != "ok":
        return failed(task, "failed", f"the run {base.key}, from whose parts this is made, has no numbers")
    try:
        parts = load_parts(parts_path(path))
        metrics, operating = _numbers(task, parts, trained.counts.get("moved", 0))
    except (DamagedMapsError, UserError) as error:
        return failed(task, "failed", f"made from the run {base.key}: {error}")
    result = Result(
        metrics=metrics,
        selected_epoch=trained.selected_epoch,
        epochs=tuple(trained.epochs),
        counts=trained.counts,
        operating=operating,
        made_from=base.key,
        environment=trained.environment,
    )
    return make_record(task, result)


def _numbers(task: RunTask, parts: KeptParts, moved: int) -> tuple[Metrics, Operating | None]:
    """Metrics and thresholds; parts from before the validation images' were kept give no thresholds."""
    method = load_method(task.method)
    config = configure(method, task.spec.method, task.identity.config)
    known = {name: torch.from_numpy(array) for name, array in parts.statistics.items()}
    finish = method.postprocessor(config, known, task.spec.image_size)
    scores, maps = _finished(finish, parts.raw)
    category = open_category(load_card(task.card), task.spec.category, task.places)
    rows = category.scored_rows(task.spec, moved, task.identity.incomplete_batches)
    if len(rows) != len(scores):
        raise UserError(f"its parts are those of {len(scores)} images, there are {len(rows)} test images")
    truth = read_truth(category, task.spec, rows)
    splits = task.split_categories or {}
    metrics = evaluate(truth, scores, maps, splits, task.spec.category)
    if not parts.validation:
        return metrics, None
    from_test = PROTOCOLS[task.spec.protocol].validation == "test_normals"
    normal = _finished(finish, parts.validation)
    return metrics, operating_points(*normal, scores, truth.kinds, splits, from_test)


def _finished(
    finish: Callable[[Mapping[str, torch.Tensor]], Prediction], raw: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores ``[N]`` and maps ``[N, S, S]``, in batches as in a run: sums are the same to the last bit."""
    tensors = {name: torch.from_numpy(array) for name, array in raw.items()}
    count = len(next(iter(tensors.values())))
    predictions = [
        finish({name: tensor[start : start + BATCH] for name, tensor in tensors.items()})
        for start in range(0, count, BATCH)
    ]
    return torch.cat([p.score for p in predictions]).numpy(), torch.cat([p.map for p in predictions]).numpy()
