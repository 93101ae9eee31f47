"""CUDA graphs of ULSAD: recorded, and the same to the last bit as one kernel after another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.data.batches import to_device
from harness.method import TrainingData
from methods.replay import Replayed
from methods.ulsad import ULSAD, ULSADConfig
from tests.bench.reconstruction import images, setup

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_graphs_change_no_bit(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, some = setup("wide_resnet50_2", tmp_path, torch.device("cuda:0")), images(20)
    found = []
    for enabled in (True, False):
        monkeypatch.setattr(Replayed, "enabled", enabled)
        torch.manual_seed(0)
        method = ULSAD(ULSADConfig.model_validate({"precision": precision, "epochs": 4}), given)
        method.fit(TrainingData(some, some, 0), lambda _: None)
        with torch.no_grad():
            maps = [method.predict(some.batch(range(4))).map for _ in range(20)]
        found.append((method.state_dict(), maps))
        how = "as a CUDA graph" if enabled else "one kernel after another"
        assert given.choices["training steps"] == given.choices["predictions"] == how
    (state, maps), (plain, expected) = found
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert all(map(torch.equal, maps, expected))


def test_batches_reach_the_gpu_as_they_are() -> None:
    batches = [batch for _ in range(20) for batch in images(9).batches(4)]
    moved = list(to_device(iter(batches), torch.device("cuda:0")))
    assert all(one.is_cuda for one in moved)
    assert all(torch.equal(one.cpu(), batch) for one, batch in zip(moved, batches, strict=True))
