"""One run, start to end, in this process: a :class:`RunTask` in, a :class:`RunRecord` out."""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.common.errors import UserError
from harness.data.batches import BATCH, to_device
from harness.data.card import NORMAL, load_card
from harness.data.decoding import read_resized
from harness.data.file_hashes import data_fingerprint
from harness.data.image_cache import load_images
from harness.data.image_roles import assign, counted, parts_of
from harness.data.samples import read_category
from harness.execution.checkpoint import Checkpoint, Progress
from harness.execution.devices import GeneratorState, seed_everything
from harness.execution.keep import keep_view, save_state
from harness.method import Epoch, Images, Method, Prediction, TrainingData
from harness.metrics.evaluate import Metrics, evaluate, read_truth, recorded
from harness.metrics.exact import METRICS_VERSIONS, image_metrics
from harness.metrics.thresholds import operating_points
from harness.planning.task import RunTask
from harness.profiling.efficiency import LEAST, SHARE, Subject, assess, count_parameters
from harness.profiling.environment import environment
from harness.profiling.memory import PeakMemory
from harness.profiling.timing import Stopwatch
from harness.registry.methods import configure, load_method
from harness.registry.setup import make_setup
from harness.results.artefacts import checkpoint_path
from harness.results.maps import KeptParts, save_maps, save_parts
from harness.results.store import record_path
from harness.spec.efficiency import Efficiency
from harness.spec.fingerprints import fingerprint
from harness.spec.operating_points import Operating
from harness.spec.protocols import PATIENCE, PROTOCOLS
from harness.spec.record import EpochLog, Failure, Outcome, RunRecord, Timings

OnEpoch = Callable[[Epoch], None]


def execute(task: RunTask, on_epoch: OnEpoch, asked: Callable[[], bool] = lambda: False) -> RunRecord:
    """Executes one run; whatever goes wrong ends up in the record.

    Args:
        task: the run.
        on_epoch: told of every epoch that ends, for the progress display.
        asked: tells whether a training shall be saved and left after the present epoch.

    Raises:
        Interrupted: that was done.
    """
    try:
        return _Run(task, on_epoch, asked).record()
    except Exception as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome: Outcome = "out_of_memory" if out_of_memory else "failed"
        return failed(task, outcome, message.strip(), traceback.format_exc())


def failed(task: RunTask, outcome: Outcome, message: str, trace: str = "") -> RunRecord:
    """Returns the record of a run that has no numbers."""
    return RunRecord(**common(task), outcome=outcome, failure=Failure(message=message, traceback=trace))


def common(task: RunTask) -> dict[str, Any]:
    """Returns the fields of a record that do not depend on what came of the run."""
    citation, remarks = "", list[str]()
    with suppress(UserError):  # a method that no longer loads: its record says so by its failure
        method = load_method(task.method)
        citation = method.citation.bibtex(task.spec.method.partition("[")[0].replace(":", "_"))
        remarks += method.remarks(configure(method, task.spec.method, task.identity.config))
    return {
        "key": task.key,
        "spec": task.spec,
        "identity": task.identity,
        "fingerprint": fingerprint(task.spec, task.identity, METRICS_VERSIONS[task.spec.evaluate]),
        "categories": list(task.categories),
        "split_categories": {k: list(v) for k, v in (task.split_categories or {}).items()},
        "environment": environment(torch.device(task.device)),
        "citation": citation,
        "remarks": remarks,
        "suite": task.suite,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


class _Run:
    def __init__(self, task: RunTask, on_epoch: OnEpoch, asked: Callable[[], bool]) -> None:
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
            asked,
        )
        seed_everything(self.spec.seed)
        self.memory = PeakMemory(self.device)
        self._load()

    def _load(self) -> None:
        self.clock["load"].start()
        task, size, resize = self.task, self.spec.image_size, self.protocol.resize
        card = load_card(task.card)
        data = read_category(card, self.spec.category, task.data_root, task.cache)
        if data_fingerprint(data, task.cache) != task.identity.data:
            raise UserError("its category's files have changed since the run was planned: run again")
        self.samples = data.test
        self.files = [sample.image for sample in data.train]
        train, validation, test = (
            load_images([sample.image for sample in part], size, resize, task.cache, self.protocol.crop)
            for part in (data.train, data.validation, data.test)
        )
        kinds = [sample.kind for sample in data.test]
        self.roles = assign(len(train), len(validation), kinds, self.spec)
        self.truth = read_truth(card, data.test, self.spec, task.data_root, task.cache, self.roles.test)
        self.parts = parts_of(self.roles, train, validation, test)
        self.clock["load"].stop()

    def record(self) -> RunRecord:
        task, clock = self.task, self.clock
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            self.networks: list[nn.Module] = []
            self.method = self._method(Path(scratch))
            dropped = self.protocol.incomplete_batches == "dropped"
            known = (self.parts.train, self.parts.validation, self.spec.seed, self.checkpoint)
            training = TrainingData(*known, drop_last=dropped)
            clock["fit"].start()
            with suppress(_StoppedError):
                self.method.fit(training, self._on_epoch)
            clock["fit"].stop()
            peak_of_fit = self.memory.read()
            # The first batch pays for allocations; a training image keeps the test set out of it.
            self._predict(self.parts.train.batch([0]))
            last = self._score(self.parts.test, clock["predict"])
            peak = self.memory.read()
            clock["evaluate"].start()
            metrics = last_metrics = self._metrics(last)
            chosen, selected = last, self.epochs[-1].number if self.epochs else None
            if self.best is not None:
                _, selected, chosen = self.best
                metrics = self._metrics(chosen)
            clock["evaluate"].stop()
            self._keep(chosen)
            operating = self._operating(last)
            efficiency = self._efficiency(peak_of_fit)
        seconds = {name: watch.seconds for name, watch in clock.items()}
        counts = {role: len(getattr(self.parts, role)) for role in ("train", "validation", "test")}
        return RunRecord(
            **common(task),
            outcome="ok",
            metrics=metrics,
            metrics_last=last_metrics if self.protocol.selection != "last" else None,
            selected_epoch=selected,
            resumed=self.resumed,
            epochs=self.epochs,
            counts=counts | counted(self.roles, self.truth.kinds, self.spec),
            timings=Timings(
                **seconds, images_per_second=len(self.parts.test) / max(seconds["predict"], 1e-9)
            ),
            peak_memory=peak,
            efficiency=efficiency,
            choices=self.choices,
            operating=operating,
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
        where = (self.device, spec.image_size, spec.seed, scratch)
        setup = make_setup(task.weights, task.assets, *where, self.networks)
        self.choices = setup.choices
        method = load_method(task.method)
        return method(configure(method, spec.method, task.identity.config), setup)

    def _on_epoch(self, epoch: Epoch) -> None:
        self.clock["fit"].stop()
        auroc = None
        if self.protocol.watches_test:
            self.clock["evaluate"].start()
            with GeneratorState(self.device):
                scores = self._score(self.parts.test)
            value = image_metrics(scores.scores, [kind != NORMAL for kind in self.truth.kinds])["image_auroc"]
            auroc = recorded(value)
            # The first of equals counts; where the AUROC is undefined there is nothing to select by.
            better = auroc is not None and (self.best is None or auroc > self.best[0])
            if auroc is not None and better and self.protocol.selection != "last":
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
        if self.protocol.stopping != "none" and self._stale() >= PATIENCE:
            raise _StoppedError

    def _stale(self) -> int:
        """For how many epochs the test image AUROC has not been better than before."""
        seen = [-1.0 if e.test_image_auroc is None else e.test_image_auroc for e in self.epochs]
        return len(seen) - 1 - seen.index(max(seen))

    def _score(self, images: Images, clock: Stopwatch | None = None) -> _Scores:
        """Predicts every image once; only prediction itself is on the clock."""
        predictions = []
        for batch in to_device(images.batches(BATCH), self.device):
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

    def _efficiency(self, peak_of_fit: dict[str, int]) -> Efficiency | None:
        """Measured after everything that decides the scores."""
        budget = self.task.measure
        if budget is None:
            budget = SHARE * sum(watch.seconds for watch in self.clock.values())
        if budget < LEAST:
            return None
        size, resize, crop = self.spec.image_size, self.protocol.resize, self.protocol.crop
        trained = len(self.parts.train) * max(len(self.epochs), 1)
        return assess(
            Subject(
                self._predict,
                self.parts.train,
                self.files,
                lambda path: read_resized(path, size, resize, crop),
                self.device,
                self.memory,
            ),
            budget,
            per_image=self.clock["predict"].seconds / len(self.parts.test),
            training=trained / max(self.clock["fit"].seconds, 1e-9),
            fit_memory=peak_of_fit,
            parameters=count_parameters(self.method, self.networks),
            state_bytes=sum(tensor.nbytes for tensor in self.method.state_dict().values()),
        )

    def _raw(self, images: Images) -> dict[str, NDArray[np.float32]]:
        with torch.no_grad():
            batches = [self.method.raw(batch) for batch in to_device(images.batches(BATCH), self.device)]
        return {name: np.concatenate([b[name].float().cpu().numpy() for b in batches]) for name in batches[0]}

    def _metrics(self, scores: _Scores) -> Metrics:
        splits = self.task.split_categories or {}
        gpu = self.device if self.device.type == "cuda" else None
        return evaluate(self.truth, scores.scores, scores.maps, splits, self.spec.category, gpu)

    def _operating(self, last: _Scores) -> Operating:
        normal, splits = self._score(self.parts.validation), self.task.split_categories or {}
        test = (last.scores, self.truth.kinds, splits, bool(self.roles.normals))
        return operating_points(normal.scores, normal.maps, *test)

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
                (self.protocol.resize, self.protocol.crop),
                self.task.cache,
                self.roles.test,
            )
        if "parts" in self.task.keep:
            statistics = {name: t.cpu().numpy() for name, t in self.method.statistics().items()}
            parts = KeptParts(self._raw(self.parts.test), self._raw(self.parts.validation), statistics)
            save_parts(record.with_suffix(".parts.safetensors"), parts)
        if "weights" in self.task.keep:
            save_state(record, self.method)


class _StoppedError(Exception):
    """The protocol ends a training before its last epoch."""


@dataclass(frozen=True)
class _Scores:
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
