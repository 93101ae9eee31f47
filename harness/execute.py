"""One run, start to end, in this process: a :class:`RunTask` in, a :class:`RunRecord` out."""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from harness.checkpoint import EVERY, Checkpoint, Progress, checkpoint_path
from harness.dataset import NORMAL, load_card, read_category
from harness.errors import UserError
from harness.evaluate import Metrics, evaluate, read_truth, recorded
from harness.files import temporary_name
from harness.images import load_images
from harness.maps import save_maps
from harness.measure import GeneratorState, PeakMemory, Stopwatch, environment, seed_everything
from harness.method import Backbone, Epoch, Images, Method, Prediction, Setup, TrainingData
from harness.metrics import METRICS_VERSION, image_metrics
from harness.registry import configure, load_method
from harness.spec import (
    PROTOCOLS,
    EpochLog,
    Failure,
    Identity,
    Outcome,
    RunRecord,
    RunSpec,
    Timings,
    fingerprint,
)
from harness.store import record_path
from harness.views import keep_view
from harness.weights import Weights, load_features, load_network

BATCH = 32
HELD_OUT = 0.1


@dataclass(frozen=True)
class RunTask:
    """A run with all that a worker needs to execute it.

    Attributes:
        method: name of an entry point, or ``/path/to/file.py:Class``.
        card: name of a built-in card, or the path of a card.
        assets: folder of each asset that the method needs, by name.
        keep: artefacts to leave beside the record: ``maps``, ``weights``.
        checkpoint_every: seconds between two checkpoints of a training at least.
        suite: what the suite says of itself, for the report.
        categories: all categories of the dataset.
        split_categories: see :class:`RunRecord`.
    """

    spec: RunSpec
    identity: Identity
    key: str
    method: str
    card: str
    data_root: Path | None
    cache: Path
    results: Path
    device: str
    weights: Mapping[str, Weights]
    assets: Mapping[str, Path] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()
    checkpoint_every: float = EVERY
    suite: str = ""
    categories: tuple[str, ...] = ()
    split_categories: Mapping[str, tuple[str, ...]] | None = None


OnEpoch = Callable[[Epoch], None]


def execute(task: RunTask, on_epoch: OnEpoch) -> RunRecord:
    """Executes one run; whatever goes wrong ends up in the record.

    Args:
        task: the run.
        on_epoch: told of every epoch that ends, for the progress display.
    """
    try:
        return _Run(task, on_epoch).record()
    except Exception as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome: Outcome = "out_of_memory" if out_of_memory else "failed"
        return failed(task, outcome, message.strip(), traceback.format_exc())


def failed(task: RunTask, outcome: Outcome, message: str, trace: str = "") -> RunRecord:
    """Returns the record of a run that has no numbers."""
    return RunRecord(**_common(task), outcome=outcome, failure=Failure(message=message, traceback=trace))


def _common(task: RunTask) -> dict[str, Any]:
    citation, remarks = "", list[str]()
    with suppress(UserError):  # a method that no longer loads: its record says so by its failure
        method = load_method(task.method)
        citation = method.citation.bibtex(task.spec.method.partition("[")[0].replace(":", "_"))
        remarks += method.remarks(configure(method, task.spec.method, task.identity.config))
    return {
        "key": task.key,
        "spec": task.spec,
        "identity": task.identity,
        "fingerprint": fingerprint(task.spec, task.identity, METRICS_VERSION),
        "categories": list(task.categories),
        "split_categories": {k: list(v) for k, v in (task.split_categories or {}).items()},
        "environment": environment(torch.device(task.device)),
        "citation": citation,
        "remarks": remarks,
        "suite": task.suite,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


@dataclass(frozen=True)
class Parts:
    """Which image of which role: training and validation rows, and where they come from."""

    train: Images
    validation: Images
    test: Images


def assign(
    train: NDArray[np.uint8],
    validation: NDArray[np.uint8],
    test: NDArray[np.uint8],
    kinds: Sequence[str],
    spec: RunSpec,
) -> Parts:
    """Assigns images to roles as the protocol says.

    ``held_out``: the dataset's own validation images, else a tenth (at least one) of the training images,
    drawn by the run's seed and not trained on. ``test_normals``: the normal test images.

    Raises:
        UserError: no image would be left to train or to validate on.
    """
    rows = np.random.default_rng(spec.seed).permutation(len(train)).tolist()
    if PROTOCOLS[spec.protocol].validation == "test_normals":
        normals = [i for i, kind in enumerate(kinds) if kind == NORMAL]
        if not normals:
            raise UserError(f"{spec.label()}: the protocol needs normal test images, there is none.")
        held_out = Images(test, normals)
    elif len(validation):
        held_out = Images(validation)
    else:
        count = max(1, round(HELD_OUT * len(rows)))
        if count >= len(rows):
            raise UserError(f"{spec.label()}: {len(rows)} training image is too few, one is held out.")
        held_out = Images(train, sorted(rows[:count]))
        rows = rows[count:]
    return Parts(Images(train, sorted(rows[: spec.limit_train])), held_out, Images(test))


def make_setup(
    weights: Mapping[str, Weights],
    assets: Mapping[str, Path],
    device: torch.device,
    image_size: int,
    seed: int,
    scratch: Path,
) -> Setup:
    """Returns what a method is given; only weights and assets that it declared are to be had."""

    def features(backbone: str, strides: Sequence[int]) -> Backbone:
        return load_features(_declared(weights, backbone), strides, device)

    def asset(name: str) -> Path:
        if name not in assets:
            raise RuntimeError(f"asset '{name}' was not declared in Method.needs")
        return assets[name]

    return Setup(
        device=device,
        image_size=image_size,
        seed=seed,
        load_network=lambda backbone: load_network(_declared(weights, backbone), device),
        load_features=features,
        asset=asset,
        scratch=scratch,
    )


class _Run:
    def __init__(self, task: RunTask, on_epoch: OnEpoch) -> None:
        self.task, self.spec = task, task.spec
        self.protocol = PROTOCOLS[task.spec.protocol]
        self.device = torch.device(task.device)
        self.tell = on_epoch
        self.epochs: list[EpochLog] = []
        self.best: tuple[float, int, _Scores] | None = None
        self.clock = {name: Stopwatch(self.device) for name in ("load", "fit", "predict", "evaluate")}
        self.resumed: list[int] = []
        self.checkpoint = Checkpoint(
            checkpoint_path(record_path(task.results, task.spec, task.key)),
            environment(self.device),
            self.device,
            self._progress,
            self._go_on,
            task.checkpoint_every,
        )
        seed_everything(self.spec.seed)
        self.memory = PeakMemory(self.device)
        self._load()

    def _load(self) -> None:
        self.clock["load"].start()
        task, size, resize = self.task, self.spec.image_size, self.protocol.resize
        card = load_card(task.card)
        data = read_category(card, self.spec.category, task.data_root, task.cache)
        self.samples = data.test
        train, validation, test = (
            load_images([sample.image for sample in part], size, resize, task.cache)
            for part in (data.train, data.validation, data.test)
        )
        self.truth = read_truth(card, data.test, self.spec, task.data_root, task.cache)
        self.parts = assign(train, validation, test, self.truth.kinds, self.spec)
        self.clock["load"].stop()

    def record(self) -> RunRecord:
        task, clock = self.task, self.clock
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            self.method = self._method(Path(scratch))
            training = TrainingData(self.parts.train, self.parts.validation, self.spec.seed, self.checkpoint)
            clock["fit"].start()
            self.method.fit(training, self._on_epoch)
            clock["fit"].stop()
            # The first batch pays for allocations; a training image keeps the test set out of it.
            self._predict(self.parts.train.batch([0]))
            last = self._score(clock["predict"])
            peak = self.memory.read()
            clock["evaluate"].start()
            metrics = last_metrics = self._metrics(last)
            chosen, selected = last, self.epochs[-1].number if self.epochs else None
            if self.best is not None:
                _, selected, chosen = self.best
                metrics = self._metrics(chosen)
            clock["evaluate"].stop()
            self._keep(chosen)
        seconds = {name: watch.seconds for name, watch in clock.items()}
        counts = {role: len(getattr(self.parts, role)) for role in ("train", "validation", "test")}
        return RunRecord(
            **_common(task),
            outcome="ok",
            metrics=metrics,
            metrics_last=last_metrics if self.protocol.selection != "last" else None,
            selected_epoch=selected,
            resumed=self.resumed,
            epochs=self.epochs,
            counts=counts | {kind: self.truth.kinds.count(kind) for kind in sorted(set(self.truth.kinds))},
            timings=Timings(
                **seconds, images_per_second=len(self.parts.test) / max(seconds["predict"], 1e-9)
            ),
            peak_memory=peak,
        )

    def _progress(self) -> Progress:
        """What a checkpoint keeps beside the method's own state."""
        found: Progress = {
            "epochs": [log.model_dump() for log in self.epochs],
            "seconds": {name: watch.seconds for name, watch in self.clock.items()},
            "resumed": self.resumed,
        }
        if self.best is not None:
            auroc, number, scores = self.best
            found["best"] = {"auroc": auroc, "number": number, "scores": scores.scores, "maps": scores.maps}
        return found

    def _go_on(self, saved: Progress) -> None:
        """Takes up what :meth:`_progress` gave to a checkpoint."""
        self.epochs = [EpochLog.model_validate(log) for log in saved["epochs"]]
        for name in ("fit", "evaluate"):
            self.clock[name].seconds += saved["seconds"][name]
        self.resumed = [*saved["resumed"], len(self.epochs)]
        if best := saved.get("best"):
            self.best = (best["auroc"], best["number"], _Scores(best["scores"], best["maps"]))

    def _method(self, scratch: Path) -> Method:
        task, spec = self.task, self.spec
        setup = make_setup(task.weights, task.assets, self.device, spec.image_size, spec.seed, scratch)
        method = load_method(task.method)
        return method(configure(method, spec.method, task.identity.config), setup)

    def _on_epoch(self, epoch: Epoch) -> None:
        self.clock["fit"].stop()
        auroc = None
        if self.protocol.selection == "best_test_image_auroc":
            self.clock["evaluate"].start()
            with GeneratorState(self.device):
                scores = self._score()
            value = image_metrics(scores.scores, [kind != NORMAL for kind in self.truth.kinds])["image_auroc"]
            auroc = recorded(value)
            # The first of equals counts; where the AUROC is undefined there is nothing to select by.
            if auroc is not None and (self.best is None or auroc > self.best[0]):
                self.best = (auroc, epoch.number, scores)
            self.clock["evaluate"].stop()
        losses = {name: float(loss) for name, loss in epoch.losses.items()}
        diverged = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if diverged:
            raise FloatingPointError(
                f"training diverged in epoch {epoch.number}: {diverged[0]} is not finite"
            )
        self.epochs.append(EpochLog(number=epoch.number, losses=losses, test_image_auroc=auroc))
        self.tell(epoch)
        self.clock["fit"].start()

    def _score(self, clock: Stopwatch | None = None) -> _Scores:
        """Predicts every test image once; only prediction itself is on the clock."""
        predictions = []
        for batch in self.parts.test.batches(BATCH):
            if clock:
                clock.start()
            predictions.append(self._predict(batch))
            if clock:
                clock.stop()
        return _Scores(
            np.concatenate([p.score.float().cpu().numpy() for p in predictions]),
            np.concatenate([p.map.float().cpu().numpy() for p in predictions]),
        )

    def _predict(self, batch: torch.Tensor) -> Prediction:
        with torch.no_grad():
            prediction = self.method.predict(batch)
        name, size = self.spec.method, self.spec.image_size
        expected = {"score": (len(batch),), "map": (len(batch), size, size)}
        for part, shape in expected.items():
            if tuple(getattr(prediction, part).shape) != shape:
                raise ValueError(
                    f"{name}.predict returned a {part} of shape {tuple(getattr(prediction, part).shape)}, "
                    f"not {shape}"
                )
        return prediction

    def _metrics(self, scores: _Scores) -> Metrics:
        splits = self.task.split_categories or {}
        return evaluate(self.truth, scores.scores, scores.maps, splits, self.spec.category)

    def _keep(self, scores: _Scores) -> None:
        record = record_path(self.task.results, self.spec, self.task.key)
        if "maps" in self.task.keep:
            save_maps(record.with_suffix(".maps.safetensors"), scores.maps, scores.scores)
            keep_view(
                record,
                scores.maps,
                scores.scores,
                self.samples,
                self.task.identity.data,
                self.protocol.resize,
                self.task.cache,
            )
        if "weights" in self.task.keep:
            state = {name: t.detach().cpu().contiguous() for name, t in self.method.state_dict().items()}
            _save(record.with_suffix(".weights.safetensors"), state)


@dataclass(frozen=True)
class _Scores:
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


def _declared(weights: Mapping[str, Weights], backbone: str) -> Weights:
    if backbone not in weights:
        raise RuntimeError(f"backbone '{backbone}' was not declared in Method.needs")
    return weights[backbone]


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / temporary_name(path.name)
    try:
        save_file(tensors, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
