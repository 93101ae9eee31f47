"""A training under a protocol: what is kept of its epochs, which of them counts, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.data.card import NORMAL
from harness.data.image_roles import Parts
from harness.execution.checkpoint import SavedProgress
from harness.execution.devices import GeneratorState
from harness.execution.scoring import Predictor, Scores
from harness.method import Checkpoints, Epoch, TrainingData
from harness.metrics.evaluate import recorded
from harness.metrics.exact import image_metrics
from harness.profiling.timing import Stopwatch
from harness.spec.protocols import PATIENCE, Protocol
from harness.spec.record import EpochLog

OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class Best:
    """The epoch that a protocol selects on test data: the first of the highest test image AUROC."""

    auroc: float
    number: int
    scores: Scores


@dataclass(frozen=True)
class Watch:
    """What a training shows to the protocol and to people.

    Attributes:
        predictor: of the method that is trained.
        parts: the images of each role.
        kinds: of the test images.
        protocol: says whether test images are looked at after each epoch, and what for.
        clock: stopwatches ``fit`` and ``evaluate``, and the run's others.
        tell: told of every epoch that ends.
    """

    predictor: Predictor
    parts: Parts
    kinds: Sequence[str]
    protocol: Protocol
    clock: dict[str, Stopwatch]
    tell: OnEpoch


class Training:
    """The epochs of one training as they end, and what a checkpoint keeps of them.

    Attributes:
        epochs: their logs.
        best: the one that is selected so far, where the protocol selects.
        resumed: after which epochs the training was gone on with.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.epochs: list[EpochLog] = []
        self.best: Best | None = None
        self.resumed: list[int] = []

    def run(self, seed: int, checkpoints: Checkpoints) -> None:
        """Trains the method, to its end or to where the protocol stops it."""
        watch = self._watch
        dropped = watch.protocol.incomplete_batches == "dropped"
        data = TrainingData(watch.parts.train, watch.parts.validation, seed, checkpoints, drop_last=dropped)
        watch.clock["fit"].start()
        with suppress(_StoppedError):
            watch.predictor.method.fit(data, self._on_epoch)
        watch.clock["fit"].stop()

    def progress(self) -> SavedProgress:
        """Returns what a checkpoint keeps beside the method's own state."""
        found: SavedProgress = {
            "epochs": [log.model_dump() for log in self.epochs],
            "seconds": {name: clock.seconds for name, clock in self._watch.clock.items()},
            "resumed": self.resumed,
        }
        if (best := self.best) is not None:
            scores = {"scores": best.scores.scores, "maps": best.scores.maps}
            found["best"] = {"auroc": best.auroc, "number": best.number, **scores}
        return found

    def go_on(self, saved: SavedProgress) -> None:
        """Takes up what :meth:`progress` gave to a checkpoint."""
        self.epochs = [EpochLog.model_validate(log) for log in saved["epochs"]]
        for name in ("fit", "evaluate"):
            self._watch.clock[name].seconds += saved["seconds"][name]
        self.resumed = [*saved["resumed"], len(self.epochs)]
        if best := saved.get("best"):
            self.best = Best(best["auroc"], best["number"], Scores(best["scores"], best["maps"]))

    def _on_epoch(self, epoch: Epoch) -> None:
        watch = self._watch
        watch.clock["fit"].stop()
        auroc = self._look_at_test(epoch.number) if watch.protocol.watches_test else None
        losses = {name: float(loss) for name, loss in epoch.losses.items()}
        diverged = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if diverged:
            raise FloatingPointError(
                f"training diverged in epoch {epoch.number}: {diverged[0]} is not finite"
            )
        self.epochs.append(EpochLog(number=epoch.number, losses=losses, test_image_auroc=auroc))
        watch.tell(epoch)
        watch.clock["fit"].start()
        if watch.protocol.stopping != "none" and self._stale() >= PATIENCE:
            raise _StoppedError

    def _look_at_test(self, number: int) -> float | None:
        """Returns the test image AUROC after an epoch, and keeps the epoch's scores if it is the best yet."""
        watch = self._watch
        watch.clock["evaluate"].start()
        with GeneratorState(watch.predictor.device):
            scores = watch.predictor.scores(watch.parts.test)
        value = image_metrics(scores.scores, [kind != NORMAL for kind in watch.kinds])["image_auroc"]
        auroc = recorded(value)
        # The first of equals counts; where the AUROC is undefined there is nothing to select by.
        better = auroc is not None and (self.best is None or auroc > self.best.auroc)
        if auroc is not None and better and watch.protocol.selection != "last":
            self.best = Best(auroc, number, scores)
        watch.clock["evaluate"].stop()
        return auroc

    def _stale(self) -> int:
        """For how many epochs the test image AUROC has not been better than before."""
        seen = [-1.0 if e.test_image_auroc is None else e.test_image_auroc for e in self.epochs]
        return len(seen) - 1 - seen.index(max(seen))


class _StoppedError(Exception):
    """The protocol ends a training before its last epoch."""
