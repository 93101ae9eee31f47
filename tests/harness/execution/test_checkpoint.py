"""Checkpoints: what is kept, and that a wrong one is as if it were not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.execution.checkpoint import Checkpoint

CPU = torch.device("cpu")


class Gathered:
    """What the harness would gather of a training."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def progress(self) -> dict[str, Any]:
        return self.found

    def go_on(self, saved: dict[str, Any]) -> None:
        self.found.update(saved)


def checkpoint(
    path: Path, gathered: dict[str, Any], environment: str = "here", every: float = 0
) -> Checkpoint:
    return Checkpoint(path, {"cpu": environment}, CPU, Gathered(gathered), every)


def training() -> dict[str, Any]:
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2])
    return {"n": network, "o": optimiser, "s": schedule, "g": torch.Generator().manual_seed(3)}


def test_everything_comes_back(tmp_path: Path) -> None:
    gathered = {
        "maps": np.arange(6, dtype=np.float32).reshape(2, 3),
        "seconds": 1.5,
        "best": None,
        "t": (1, "x"),
    }
    parts = training()
    checkpoint(tmp_path / "c", gathered).offer(4, parts)
    drawn = [torch.rand(3), np.random.rand(3), torch.rand(3, generator=parts["g"])]
    other, back = training(), dict[str, Any]()
    assert checkpoint(tmp_path / "c", back).restore(other) == 4
    assert np.array_equal(back.pop("maps"), gathered["maps"])
    assert back == {"seconds": 1.5, "best": None, "t": (1, "x")}
    again = [torch.rand(3), np.random.rand(3), torch.rand(3, generator=other["g"])]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert other["s"].state_dict() == parts["s"].state_dict()
    for a, b in zip(other["n"].parameters(), parts["n"].parameters(), strict=True):
        assert torch.equal(a, b)
    states = [p["o"].state_dict()["state"][0]["exp_avg"] for p in (other, parts)]
    assert torch.equal(*states)


def test_a_wrong_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path, parts = tmp_path / "c", training()
    assert checkpoint(path, {}).restore(parts) == 0
    checkpoint(path, {}).offer(4, parts)
    assert checkpoint(path, {}, environment="elsewhere").restore(parts) == 0
    assert checkpoint(path, {}).restore({"n": parts["n"]}) == 0
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no tensors"):
        path.write_bytes(broken)
        assert checkpoint(path, {}).restore(parts) == 0


def test_saving_waits_its_time(tmp_path: Path) -> None:
    checkpoint(tmp_path / "c", {}, every=60).offer(1, training())
    assert not (tmp_path / "c").exists()


def test_a_state_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, object]:
            return {"x": object()}

    with pytest.raises(TypeError, match="cannot hold a object"):
        checkpoint(tmp_path / "c", {}).offer(1, {"odd": Odd()})
