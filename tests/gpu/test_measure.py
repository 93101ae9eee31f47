"""What is measured on a GPU, on fake methods whose cost is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.method import Images, Prediction
from harness.profiling.efficiency import Subject, assess
from harness.profiling.memory import PeakMemory
from harness.spec.efficiency import Efficiency
from methods.replay import Replayed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SIDE = 32


def measured(work: int = 0, megabytes: int = 0) -> Efficiency:
    """Costs of a method that keeps the GPU busy for so many cycles, or allocates so much."""
    device = torch.device("cuda:0")

    def predict(images: Tensor) -> Prediction:
        if work:
            torch.cuda._sleep(work)
        torch.ones(max(1, megabytes * 250_000), device=device)
        zeros = torch.zeros(len(images), SIDE, SIDE, device=device)
        return Prediction(zeros[:, 0, 0], zeros)

    images = Images(np.zeros((4, SIDE, SIDE, 3), np.uint8))
    subject = Subject(
        predict,
        images,
        [Path("a")],
        lambda _: np.zeros((SIDE, SIDE, 3), np.uint8),
        device,
        PeakMemory(device),
    )
    return assess(subject, 2.0, 1e-4, None, {}, 0, 0)


def test_asynchronous_work_is_waited_for() -> None:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(50_000_000)
    end.record()
    end.synchronize()
    seconds = start.elapsed_time(end) / 1000
    found = measured(work=50_000_000)
    assert found.throughput["32"].median == pytest.approx(32 / seconds, rel=0.05)


def test_peak_memory_is_what_was_allocated() -> None:
    found = measured(megabytes=500)
    assert found.memory["predict"]["device"] == pytest.approx(500e6, rel=0.05)
    assert found.memory["predict"]["driver"] >= 500e6


def test_peak_memory_counts_what_a_graph_holds() -> None:
    device = torch.device("cuda:0")
    work = Replayed(lambda x: (torch.ones(125_000_000, device=device).sum() + x,), device)
    for _ in range(5):
        work(torch.zeros(1, device=device))
    assert work.how == "as a CUDA graph"
    memory = PeakMemory(device)
    work(torch.zeros(1, device=device))
    assert memory.read()["device"] == pytest.approx(500e6, rel=0.05)
