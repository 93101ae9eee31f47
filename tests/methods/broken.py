"""Methods that break their contract on purpose, and one that keeps it."""

import contextlib
import os
import time
from pathlib import Path

import torch
from pydantic import Field

from harness import Citation, Epoch, Hyperparameters, Method, Prediction

COUNT = [0]


class Sound(Method):
    version = 1
    citation = Citation(title="Sound", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        epochs: int = Field(1000, ge=1)

    def fit(self, data, on_epoch):
        self.mean = torch.cat(list(data.train.batches(8))).float().mean(dim=0)
        self.work(data, on_epoch)

    def work(self, data, on_epoch):
        for number in range(1, self.config.epochs + 1):
            on_epoch(Epoch(number, self.config.epochs, {"loss": 1 / number}))

    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class Broken(Sound):
    def fit(self, data, on_epoch):
        COUNT[0] += 1
        print("hello")  # noqa: T201 - the breach
        Path("model.bin").write_bytes(b"0")
        list(Path(os.environ["BENCH_DATA"]).rglob("*"))
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(False)
        os.environ["LEFT"] = "behind"
        train = data.train.batch(range(len(data.train))).float()
        if len(data.train) == 1:
            torch.nn.BatchNorm1d(3).float()(train.mean(dim=(2, 3)).float())
        if self.setup.image_size % 2:
            raise RuntimeError("even sizes only")
        if (train[:, 0] == train[:, 1]).all():
            raise ZeroDivisionError("no colour")
        self.mean = train.mean(dim=0) + COUNT[0] + torch.rand(1, generator=torch.Generator().manual_seed(1))
        self.calls = 0

    def predict(self, images):
        self.calls += 1
        maps = ((images - self.mean).abs().mean(dim=1) / images.float().std()).float() + self.calls
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {"mean": self.mean.float()}

    def load_state_dict(self, state):
        self.mean, self.calls = state["mean"] * 0, 0


class Stubborn(Sound):
    def work(self, data, on_epoch):
        until = time.monotonic() + 3 if self.config.epochs > 2 else 0
        while time.monotonic() < until:
            try:
                time.sleep(0.05)
            except KeyboardInterrupt:
                until = time.monotonic() + 60
        on_epoch(Epoch(1, 1))


class Crooked(Sound):
    def fit(self, data, on_epoch):
        super().fit(data, lambda epoch: on_epoch(Epoch(3, 2)))

    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1).double()
        maps[0] = float("nan")
        return Prediction(maps.amax(dim=(1, 2))[:, None], maps[:, ::2])


class Curious(Sound):
    def fit(self, data, on_epoch):
        super().fit(data, on_epoch)
        import gc

        for thing in gc.get_objects():
            if type(thing).__name__ == "PoisonedImages":
                with contextlib.suppress(PermissionError):
                    thing.batch([0])


class Dies(Sound):
    def work(self, data, on_epoch):
        on_epoch(Epoch(1, 1))
        os.kill(os.getpid(), 11)


class DiesLate(Sound):
    def work(self, data, on_epoch):
        super().work(data, on_epoch)
        if len(data.train) == 1:
            os._exit(4)


class Hangs(Sound):
    def work(self, data, on_epoch):
        time.sleep(60)
