"""A training that is interrupted after every epoch and gone on with, against one that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.execution.checkpoint import Checkpoint
from harness.method import Epoch, Images, Method, TrainingData


class NothingGathered:
    """Stands for a harness that keeps nothing of a training."""

    def progress(self) -> dict[str, Any]:
        return {}

    def go_on(self, saved: dict[str, Any]) -> None:
        assert saved == {}


class StoppedError(Exception):
    """Stands for the process's end."""


def assert_resumes_to_the_same_bits(
    build: Callable[[], Method], data: TrainingData, batch: Images, path: Path
) -> None:
    """Trains once in one go, and once in processes that each get one epoch further."""

    def checkpoint() -> Checkpoint:
        return Checkpoint(path, {"torch": torch.__version__}, torch.device("cpu"), NothingGathered(), every=0)

    def fit(method: Method, given: TrainingData, last: int) -> list[int]:
        seen: list[int] = []

        def on_epoch(epoch: Epoch) -> None:
            seen.append(epoch.number)
            if epoch.number == last:
                raise StoppedError

        method.fit(given, on_epoch)
        return seen

    torch.manual_seed(0)
    whole = build()
    epochs = fit(whole, data, 0)
    assert len(epochs) > 1, "one epoch cannot be interrupted"
    for last in epochs[1:]:
        torch.manual_seed(last)
        with pytest.raises(StoppedError):
            fit(build(), replace(data, checkpoints=checkpoint()), last)
        assert path.is_file()
    torch.manual_seed(99)
    resumed = build()
    assert fit(resumed, replace(data, checkpoints=checkpoint()), 0) == epochs[-1:]
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    one, other = whole.predict(batch.batch(range(2))), resumed.predict(batch.batch(range(2)))
    assert torch.equal(one.map, other.map) and torch.equal(one.score, other.score)
