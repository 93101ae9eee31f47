"""Time, memory and size of a method; docs/efficiency.md defines each number."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from harness.spec.efficiency import Quantity

# A batch counts as warmed up when it takes as long as the one before, within this share.
_STABLE = 0.1
_WARM_UPS = 8
_LEAST = 3
_MOST = 200


def synchronise(device: torch.device) -> None:
    """Waits for everything that was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up seconds between ``start`` and ``stop``, the device's queue drained at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        """Begins to count."""
        synchronise(self._device)
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting."""
        synchronise(self._device)
        self.seconds += time.perf_counter() - self._since


def repeat(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Returns the seconds that repetitions of some work took, each waited for, after an untimed warm-up.

    The warm-up ends when two repetitions in a row take equally long, or a third of the time is used up. At
    least three repetitions are timed, then as many as fit.

    Args:
        work: what to time; may leave work behind on the device.
        device: where it computes.
        seconds: for warm-up and repetitions together.
    """

    def once() -> float:
        begun = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - begun

    synchronise(device)
    start = time.perf_counter()
    last = math.inf
    for _ in range(_WARM_UPS):
        now = once()
        if abs(now - last) <= _STABLE * now or time.perf_counter() - start > seconds / 3:
            break
        last = now
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() - start < seconds):
        taken.append(once())
    return taken


def quantity(values: Sequence[float]) -> Quantity:
    """Returns the median with an interval of at least 95 % by order statistics, whatever the distribution.

    The k-th least and k-th greatest value enclose the median unless fewer than k values lie on one side of
    it, a binomial probability (W. J. Conover, "Practical Nonparametric Statistics", 3.2). Below six values no
    interval holds 95 %, and the least and greatest stand for it.
    """
    ordered = sorted(values)
    n, k, outside = len(ordered), 0, 0.5 ** len(ordered)
    while 2 * (outside := outside + math.comb(n, k + 1) * 0.5**n) <= 0.05:
        k += 1
    return Quantity(median=statistics.median(ordered), low=ordered[k], high=ordered[n - 1 - k], count=n)


def rate(images: int, seconds: Sequence[float]) -> Quantity:
    """Returns images per second from the seconds that so many images took each time."""
    return quantity([images / max(s, 1e-9) for s in seconds])
