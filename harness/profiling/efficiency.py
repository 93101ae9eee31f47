"""The efficiency of a trained method, within a budget of seconds; docs/efficiency.md defines each number."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.data.batches import BATCH, as_batch, to_device
from harness.method import Images, Prediction
from harness.profiling.interference import Guard
from harness.profiling.memory import PeakMemory, driver_peak, in_use, release
from harness.profiling.timing import quantity, rate, repeat, synchronise
from harness.spec.efficiency import Efficiency, Quantity

SIZES = (1, 8, BATCH)
# In less than so many seconds there is nothing but noise to see.
LEAST = 0.05
_LARGEST = 1024
# A larger batch counts as faster from this gain on.
_GAIN = 1.03
# Memory that grows by less than this with every batch is an allocator's noise.
_GROWTH = 1 << 20
_READERS = 8


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        predict: the trained method's, under no gradient.
        images: normal training images, which stand for any image.
        files: their files.
        read: reads one file as uint8 ``[S, S, 3]``.
        device: where the method computes.
        memory: peak memory since before the method was built.
    """

    predict: Callable[[Tensor], Prediction]
    images: Images
    files: Sequence[Path]
    read: Callable[[Path], NDArray[np.uint8]]
    device: torch.device
    memory: PeakMemory


@dataclass
class _Found:
    """What has been measured so far, under the names of :class:`Efficiency`."""

    throughput: dict[str, Quantity] = field(default_factory=dict)
    latency: Quantity | None = None
    latency_p99: float | None = None
    end_to_end: Quantity | None = None
    paper_way: Quantity | None = None
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    growth: int = 0
    energy: float | None = None
    left_out: list[str] = field(default_factory=list)


def assess(  # noqa: PLR0913 - what a run hands in
    subject: Subject,
    seconds: float,
    per_image: float,
    training: float | None,
    fit_memory: Mapping[str, int],
    parameters: int,
    state_bytes: int,
) -> Efficiency:
    """Measures what fits into the time; a training is not repeated, its numbers are handed in.

    Args:
        subject: what to measure.
        seconds: how long all of it may take, about.
        per_image: seconds that an image took while the test set was predicted; tells what will fit.
        training: training images per second.
        fit_memory: peak bytes of ``fit``.
        parameters: of all networks.
        state_bytes: of what was learned.
    """
    found, guard = _Found(memory={"fit": dict(fit_memory)}), Guard(subject.device)
    flops = count_flops(subject.predict, on_device(subject, 1))
    # Five things take time: three batch sizes, from files to scores, and the paper's way.
    budget = _Budget(seconds, 5, per_image, found.left_out)
    for size in SIZES:
        # At the largest the memory is looked at first, by as many batches again.
        if share := budget.share(f"batch {size}", 4 * size * (2 if size == BATCH else 1)):
            _throughput(subject, found, guard, size, share)
    if str(BATCH) in found.throughput:
        _peak(subject, found)
        _larger(subject, found, guard, seconds / 5)
    if share := budget.share("from files to scores", 4 * BATCH):
        found.end_to_end = quantity(list(end_to_end(subject, share)))
    if share := budget.share("the paper's way", 4 * BATCH):
        found.paper_way = rate(BATCH, repeat(lambda: _one_by_one(subject), subject.device, share))
    flags = guard.flags()
    if found.growth:
        flags.append(f"memory grows by {found.growth / 1e6:.1f} MB with every batch")
    return Efficiency(
        **vars(found),
        training=training,
        parameters=parameters,
        state_bytes=state_bytes,
        flops=flops,
        gpu=guard.gpu(),
        flags=flags,
    )


def on_device(subject: Subject, size: int) -> Tensor:
    """Returns a batch of images, repeated where there are fewer, on the device."""
    return subject.images.batch([i % len(subject.images) for i in range(size)]).to(subject.device)


def count_flops(predict: Callable[[Tensor], Prediction], image: Tensor) -> int | None:
    """Returns the floating-point operations of one prediction by PyTorch's counter.

    It counts matrix products, convolutions and attention; a multiplication with its addition is two. What a
    method does outside PyTorch it cannot see: ``None`` where it saw nothing.
    """
    with FlopCounterMode(display=False) as counter:
        predict(image)
    return int(counter.get_total_flops()) or None


class _Budget:
    """The seconds that measuring may take; what nothing took is for those that come later.

    Args:
        seconds: for all of it.
        things: how many will ask for a share.
        per_image: seconds that an image is expected to take.
        left_out: takes up what does not fit.
    """

    def __init__(self, seconds: float, things: int, per_image: float, left_out: list[str]) -> None:
        self._left, self._things = seconds, things
        self._per_image, self._left_out = per_image, left_out

    def share(self, what: str, images: int) -> float:
        """Returns an equal part of what is left; 0, and says so, where that cannot be enough.

        Args:
            what: that takes it.
            images: that a warm-up and the fewest repetitions need. They may take twice the share, if that
                much is left.
        """
        share, expected = self._left / self._things, images * self._per_image
        self._things -= 1
        if expected <= min(2 * share, self._left):
            self._left -= max(share, expected)
            return share
        self._left_out.append(f"{what}: would take about {expected:.1f} s, --measure allows {share:.1f} s")
        return 0.0


def _throughput(subject: Subject, found: _Found, guard: Guard, size: int, seconds: float) -> None:
    """Images on the device → predictions; at batch 1 to the score on the host, which is the latency."""
    batch = on_device(subject, size)
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        prediction = subject.predict(batch)
        if size == 1:
            prediction.score.cpu()

    held = 0
    if size == BATCH:
        repeat(work, subject.device, 0.0)
        # Looking takes a good part of a second where a process holds many objects.
        held = in_use(subject.device)
    calls, joules = 0, guard.joules()
    taken = repeat(work, subject.device, seconds)
    used = guard.joules()
    found.throughput[str(size)] = rate(size, taken)
    if size == 1:
        found.latency = quantity(taken)
        found.latency_p99 = float(np.quantile(taken, 0.99))
    if size == BATCH and (grown := (in_use(subject.device) - held) // calls) > _GROWTH:
        found.growth = grown
    if size == BATCH and joules is not None and used is not None:
        found.energy = (used - joules) / (size * calls) * 1000
    guard.look()


def _peak(subject: Subject, found: _Found) -> None:
    """Peak memory of one batch, in a pass of its own: nothing is timed meanwhile."""
    batch = on_device(subject, BATCH)
    subject.memory.restart()
    with driver_peak(subject.device) as driver:
        subject.predict(batch)
        synchronise(subject.device)
    found.memory["predict"] = subject.memory.read() | driver


def _larger(subject: Subject, found: _Found, guard: Guard, seconds: float) -> None:
    """On a GPU: doubles the batch until it is no faster any more or does not fit."""
    size = BATCH
    while subject.device.type == "cuda" and size < _LARGEST:
        size *= 2
        try:
            _throughput(subject, found, guard, size, seconds / 4)
        except torch.OutOfMemoryError:
            release(subject.device)
            found.left_out.append(f"batch {size}: does not fit into the device's memory")
            return
        gain = found.throughput[str(size)].median / found.throughput[str(size // 2)].median
        if gain < _GAIN:
            return


def end_to_end(subject: Subject, seconds: float) -> Iterator[float]:
    """Yields images per second, batch by batch: the next batch is read while one is predicted.

    Eight threads read files. The first batch, for which nothing could be read ahead, does not count.
    """
    files = [subject.files[i % len(subject.files)] for i in range(BATCH)]
    with ThreadPoolExecutor(_READERS) as readers:
        batches = (as_batch(list(readers.map(subject.read, files))) for _ in itertools.count())
        begun = last = time.perf_counter()
        with closing(to_device(batches, subject.device)) as coming:
            for count, batch in enumerate(coming):
                subject.predict(batch).score.cpu()
                now = time.perf_counter()
                if count:
                    yield BATCH / (now - last)
                last = now
                if count >= 2 and last - begun >= seconds:
                    return


def _one_by_one(subject: Subject) -> None:
    """A batch in the paper's way: read, predict, and bring scores and maps to the host, one after another."""
    files = [subject.files[i % len(subject.files)] for i in range(BATCH)]
    prediction = subject.predict(as_batch([subject.read(path) for path in files]))
    prediction.score.cpu()
    prediction.map.cpu()


def count_parameters(*owners: object) -> int:
    """Returns the parameters of all modules that these are or hold as attributes, each counted once."""
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, nn.Module):
            found.update({id(p): p.numel() for p in value.parameters()})
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            visit(list(value.values()))

    for owner in owners:
        visit(owner if isinstance(owner, nn.Module | list | tuple) else vars(owner))
    return sum(found.values())
