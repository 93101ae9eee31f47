"""One run, start to end, in this process: a task in, a record out.

The data are prepared, the method is trained and scored, what is asked for is kept, and costs are measured:
:func:`_record` reads in this order.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from harness.common.defaults import MEASURING_SHARE
from harness.common.errors import UserError
from harness.data.card import load_card
from harness.data.category import Category, open_category
from harness.data.decoding import read_resized
from harness.data.image_roles import Parts, Roles, counted
from harness.execution.checkpoint import Checkpoint
from harness.execution.devices import seed_everything
from harness.execution.keep import ShownImages, keep_view, save_state
from harness.execution.record import Result, failed, make_record
from harness.execution.scoring import Predictor, Scores
from harness.execution.training import OnEpoch, Training, Watch
from harness.metrics.evaluate import Metrics, Truth, evaluate, read_truth
from harness.metrics.thresholds import operating_points
from harness.planning.task import RunTask
from harness.profiling.efficiency import LEAST, Subject, assess, count_parameters
from harness.profiling.environment import environment
from harness.profiling.memory import PeakMemory
from harness.profiling.timing import Stopwatch
from harness.registry.methods import configure, load_method
from harness.registry.setup import Surroundings, make_setup
from harness.results.artefacts import checkpoint_path, maps_path, parts_path
from harness.results.maps import KeptParts, save_maps, save_parts
from harness.spec.efficiency import Efficiency
from harness.spec.operating_points import Operating
from harness.spec.protocols import PROTOCOLS, Protocol
from harness.spec.record import Outcome, RunRecord, Timings

Asked = Callable[[], bool]


def execute(task: RunTask, on_epoch: OnEpoch, asked: Asked = lambda: False) -> RunRecord:
    """Executes one run; whatever goes wrong ends up in the record.

    Args:
        task: the run.
        on_epoch: told of every epoch that ends, for the progress display.
        asked: tells whether a training shall be saved and left after the present epoch.

    Raises:
        Interrupted: that was done.
    """
    try:
        return _record(task, on_epoch, asked)
    except Exception as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome: Outcome = "out_of_memory" if out_of_memory else "failed"
        return failed(task, outcome, message.strip(), traceback.format_exc())


def _record(task: RunTask, on_epoch: OnEpoch, asked: Asked) -> RunRecord:
    """The whole of a run, each step a value that the next ones take."""
    data = _prepare(task)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        made = _make_method(data, Path(scratch))
        trained = _train(data, made, on_epoch, asked)
        scored = _score(data, made, trained)
        _keep(data, made, scored)
        operating = _operating(data, made, scored)
        efficiency = _efficiency(data, made, trained)
    seconds = {name: watch.seconds for name, watch in data.clock.items()}
    counts = {role: len(getattr(data.parts, role)) for role in ("train", "validation", "test")}
    result = Result(
        metrics=scored.metrics,
        metrics_last=scored.metrics_last if data.protocol.selection != "last" else None,
        selected_epoch=scored.selected,
        epochs=tuple(trained.training.epochs),
        resumed=tuple(trained.training.resumed),
        counts=counts | counted(data.roles, data.truth.kinds, task.spec),
        timings=Timings(**seconds, images_per_second=counts["test"] / max(seconds["predict"], 1e-9)),
        peak_memory=scored.peak_memory,
        efficiency=efficiency,
        choices=made.choices,
        operating=operating,
    )
    return make_record(task, result)


@dataclass(frozen=True)
class _Prepared:
    """A run that can begin: its images, and what is measured against them.

    Attributes:
        clock: stopwatches by name.
        memory: the peak from here on.
    """

    task: RunTask
    protocol: Protocol
    device: torch.device
    category: Category
    roles: Roles
    parts: Parts
    truth: Truth
    clock: dict[str, Stopwatch]
    memory: PeakMemory


def _prepare(task: RunTask) -> _Prepared:
    device, spec = torch.device(task.device), task.spec
    clock = {name: Stopwatch(device) for name in ("load", "fit", "predict", "evaluate")}
    seed_everything(spec.seed)
    memory = PeakMemory(device)
    clock["load"].start()
    category = open_category(load_card(task.card), spec.category, task.places)
    if category.fingerprint != task.identity.data:
        raise UserError("its category's files have changed since the run was planned: run again")
    roles = category.roles(spec)
    parts, truth = category.images(spec, roles), read_truth(category, spec, roles.test)
    clock["load"].stop()
    return _Prepared(task, PROTOCOLS[spec.protocol], device, category, roles, parts, truth, clock, memory)


@dataclass(frozen=True)
class _Made:
    """A method, and what it was given.

    Attributes:
        networks: the pretrained ones that it asked for.
        choices: how it goes about its work on this machine, filled while it works.
    """

    predictor: Predictor
    networks: list[nn.Module]
    choices: dict[str, str]


def _make_method(data: _Prepared, scratch: Path) -> _Made:
    task, spec = data.task, data.task.spec
    networks: list[nn.Module] = []
    around = Surroundings(data.device, spec.image_size, spec.seed, scratch)
    setup = make_setup(task.weights, task.assets, around, networks)
    method = load_method(task.method)
    made = method(configure(method, spec.method, task.identity.config), setup)
    return _Made(Predictor(made, spec.method, spec.image_size, data.device), networks, setup.choices)


@dataclass(frozen=True)
class _Trained:
    """A training that has ended.

    Attributes:
        peak_memory: of the training.
    """

    training: Training
    peak_memory: dict[str, int]


def _train(data: _Prepared, made: _Made, on_epoch: OnEpoch, asked: Asked) -> _Trained:
    watch = Watch(made.predictor, data.parts, data.truth.kinds, data.protocol, data.clock, on_epoch)
    training = Training(watch)
    checkpoint = Checkpoint(
        checkpoint_path(data.task.record_path),
        environment(data.device),
        data.device,
        training,
        data.task.checkpoint_every,
        asked,
    )
    training.run(data.task.spec.seed, checkpoint)
    return _Trained(training, data.memory.read())


@dataclass(frozen=True)
class _Scored:
    """The test images' scores and maps, and their metrics.

    Attributes:
        last: of the last epoch.
        chosen: of the one that counts.
        selected: its number, ``None`` where there are no epochs.
        metrics: of ``chosen``.
        metrics_last: of ``last``.
        peak_memory: of training and prediction.
    """

    last: Scores
    chosen: Scores
    selected: int | None
    metrics: Metrics
    metrics_last: Metrics
    peak_memory: dict[str, int]


def _score(data: _Prepared, made: _Made, trained: _Trained) -> _Scored:
    # The first batch pays for allocations; a training image keeps the test set out of it.
    made.predictor.predict(data.parts.train.batch([0]))
    last = made.predictor.scores(data.parts.test, data.clock["predict"])
    peak = data.memory.read()
    data.clock["evaluate"].start()
    metrics = metrics_last = _metrics(data, last)
    epochs, best = trained.training.epochs, trained.training.best
    chosen, selected = last, epochs[-1].number if epochs else None
    if best is not None:
        chosen, selected = best.scores, best.number
        metrics = _metrics(data, chosen)
    data.clock["evaluate"].stop()
    return _Scored(last, chosen, selected, metrics, metrics_last, peak)


def _metrics(data: _Prepared, found: Scores) -> Metrics:
    splits = data.task.split_categories or {}
    gpu = data.device if data.device.type == "cuda" else None
    return evaluate(data.truth, found.scores, found.maps, splits, data.task.spec.category, gpu)


def _keep(data: _Prepared, made: _Made, scored: _Scored) -> None:
    """Writes what the task asks for beside the record that is to be."""
    task, parts, found = data.task, data.parts, scored.chosen
    record = task.record_path
    if "maps" in task.keep:
        save_maps(maps_path(record), found.maps, found.scores)
        samples, fit = data.category.samples.test, task.spec.fit
        shown = ShownImages(samples, task.identity.data, fit, task.places.cache, data.roles.test)
        keep_view(record, found.maps, found.scores, shown)
    if "parts" in task.keep:
        method, raw = made.predictor.method, made.predictor.raw
        statistics = {name: tensor.cpu().numpy() for name, tensor in method.statistics().items()}
        kept = KeptParts(raw(parts.test), raw(parts.validation), statistics)
        save_parts(parts_path(record), kept)
    if "weights" in task.keep:
        save_state(record, made.predictor.method)


def _operating(data: _Prepared, made: _Made, scored: _Scored) -> Operating:
    normal, splits = made.predictor.scores(data.parts.validation), data.task.split_categories or {}
    from_test = bool(data.roles.normals)
    return operating_points(
        normal.scores, normal.maps, scored.last.scores, data.truth.kinds, splits, from_test
    )


def _efficiency(data: _Prepared, made: _Made, trained: _Trained) -> Efficiency | None:
    """Measured after everything that decides the scores."""
    budget = data.task.measure
    if budget is None:
        budget = MEASURING_SHARE * sum(watch.seconds for watch in data.clock.values())
    if budget < LEAST:
        return None
    method, fit = made.predictor.method, data.task.spec.fit
    count = len(data.parts.train) * max(len(trained.training.epochs), 1)
    return assess(
        Subject(
            made.predictor.predict,
            data.parts.train,
            [sample.image for sample in data.category.samples.train],
            lambda path: read_resized(path, fit),
            data.device,
            data.memory,
        ),
        budget,
        per_image=data.clock["predict"].seconds / len(data.parts.test),
        training=count / max(data.clock["fit"].seconds, 1e-9),
        fit_memory=trained.peak_memory,
        parameters=count_parameters(method, made.networks),
        state_bytes=sum(tensor.nbytes for tensor in method.state_dict().values()),
    )
