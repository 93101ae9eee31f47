"""What is done with a recording of work, by a stand-in for CUDA graphs; tests/gpu has the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from methods import replay, ulsad
from methods.replay import Replayed, Work
from methods.ulsad import ULSAD, ULSADConfig
from tests.methods.test_methods import TinyBackbone, build, fit, images, setup

CPU = torch.device("cpu")


class Fake:
    """Records as CUDA does: nothing is done while recording, and every replay fills the same tensors."""

    def __init__(
        self, state: Callable[[], Sequence[Tensor]] = tuple, wrong: float = 0.0, fails: bool = False
    ) -> None:
        self.state, self.wrong, self.fails = state, wrong, fails
        self.log: list[str] = []

    def do(self, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.log.append("do")
        return work(*inputs)

    def record(self, work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], Sequence[Tensor]]:
        self.log.append("record")
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nsecond line")
        state = self.state()
        before = [tensor.detach().clone() for tensor in state]
        outputs = [torch.full_like(tensor, torch.nan) for tensor in work(*inputs)]
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

        def replay() -> None:
            self.log.append("replay")
            for mine, found in zip(outputs, work(*inputs), strict=True):
                mine.copy_(found + self.wrong)

        return replay, outputs


def counter(fake: Fake | None = None) -> tuple[Replayed, Tensor]:
    """Work that changes a state and returns what depends on it."""
    total = torch.zeros(3)

    def work(x: Tensor) -> tuple[Tensor, Tensor]:
        total.add_(x.sum())
        return total * 2, x + 1

    if fake is not None:
        fake.state = lambda: [total]
    return Replayed(work, CPU, lambda: [total], before=2, recorder=fake), total


def batches(counts: Sequence[int]) -> list[Tensor]:
    return [torch.arange(count).float() + i for i, count in enumerate(counts)]


@pytest.mark.parametrize("fake", [Fake(), Fake(wrong=1e-6), Fake(fails=True)])
def test_every_way_comes_to_the_same(fake: Fake) -> None:
    plain, expected_total = counter()
    replayed, total = counter(fake)
    given = batches([4, 4, 4, 4, 4, 2, 4, 4, 2, 2, 2, 2])
    # Kept beyond later calls, as the harness keeps predictions.
    expected, found = [plain(x) for x in given], [replayed(x) for x in given]
    for one, other in zip(expected, found, strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.equal(total, expected_total)


def test_work_is_recorded_after_it_came_a_few_times_in_a_row() -> None:
    fake = Fake()
    replayed, _ = counter(fake)
    for x in batches([4, 4, 2, 4, 4]):
        replayed(x)
    assert fake.log == ["do"] * 5
    replayed(torch.ones(4))
    assert fake.log[5:] == ["do", "record", "replay"]
    assert replayed.how == "as a CUDA graph"
    # The last batch of each epoch does not take the recording's place.
    del fake.log[:]
    for x in batches([2, 4, 2, 4, 2, 4, 2]):
        replayed(x)
    assert fake.log == ["do", "replay"] * 3 + ["do"]


def test_what_records_wrongly_is_not_replayed_and_says_so() -> None:
    for fake, why in (
        (Fake(wrong=1e-6), "other numbers"),
        (Fake(fails=True), "not permitted when stream is"),
    ):
        replayed, _ = counter(fake)
        for x in batches([4] * 6):
            replayed(x)
        assert why in replayed.how
        assert "\n" not in replayed.how
        assert fake.log.count("record") == 1


def test_a_recording_is_forgotten() -> None:
    fake = Fake()
    scale = [torch.ones(1)]
    replayed = Replayed(lambda x: (x * scale[0],), CPU, before=1, recorder=fake)
    for _ in range(3):
        replayed(torch.ones(2))
    scale[0] = torch.full((1,), 5.0)
    replayed.forget()
    assert replayed(torch.ones(2))[0].tolist() == [5, 5]


def test_without_a_gpu_work_is_merely_done() -> None:
    replayed, _ = counter()
    for x in batches([4] * 6):
        replayed(x)
    assert replayed.how == "one kernel after another"


# ULSAD, whose steps and predictions are recorded on a GPU


def test_ulsad_replays_what_it_would_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build("ulsad", epochs=3, batch_size=2)
    losses = fit(plain)[-1].losses
    made: list[Fake] = []

    def recorded(*args: Any, **options: Any) -> Replayed:
        # What the state leaves out, recording changes and does not put back.
        made.append(Fake(args[2] if len(args) > 2 else tuple))
        return Replayed(*args, **options, recorder=made[-1])

    monkeypatch.setattr(ulsad, "Replayed", recorded)
    method = build("ulsad", epochs=3, batch_size=2)
    assert fit(method)[-1].losses == losses
    expected, found = plain.state_dict(), method.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    batch = images(4, seed=5).batch(range(4))
    for _ in range(20):
        assert torch.equal(method.predict(batch).map, plain.predict(batch).map)
    # Other weights: what was recorded with the earlier ones is gone.
    method.load_state_dict(build("ulsad").state_dict())
    assert torch.equal(method.predict(batch).map, build("ulsad").predict(batch).map)
    assert [fake.log.count("record") for fake in made[:2]] == [1, 1]
    assert all("replay" in fake.log[-30:] for fake in made[:2])


class Waits(TorchDispatchMode):
    """Refuses whatever needs a number on the host, for which a GPU would be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        ), f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss_pg", ["attention", "direct"])
def test_no_step_of_ulsad_waits(loss_pg: str) -> None:
    method = build("ulsad", loss_pg=loss_pg)
    fit(method)
    assert isinstance(method, ULSAD)
    optimiser = torch.optim.SGD(method.modules().parameters(), lr=1e-3)
    X = images(4).batch(range(4))
    method.modules().train()
    with pytest.raises(AssertionError, match="waits"), Waits():
        float(torch.ones(()))
    with Waits():
        method._step(optimiser, X, method.features(X))
        method._score(X)


class OnGpu(TinyBackbone):
    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__(strides)
        self.kernels = [kernel.to("cuda") for kernel in self.kernels]


def test_all_that_ulsad_computes_is_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors that have a device and no numbers, which need no GPU."""
    monkeypatch.setattr(replay, "CudaRecorder", lambda _: None)
    # Parameters without numbers cannot be moved; they are made on the GPU.
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    given = replace(setup(), device=torch.device("cuda"), load_features=lambda _, strides: OnGpu(strides))
    config = ULSADConfig.model_validate({"backbone": "tiny", "output": "relu"})
    with FakeTensorMode(), torch.device("cuda"):
        method = ULSAD(config, given)
        method.q = torch.ones(2, 2, device="cuda")
        X = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="cuda")
        found = method.predict(X)
        losses = method.losses(method.normalise(X), method.standardise(method.features(X)))
    for tensor in (found.score, found.map, *found.parts.values(), *losses.values()):
        assert tensor.device.type == "cuda"
