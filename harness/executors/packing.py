"""Several runs on one device at a time, as far as its memory goes."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from harness.errors import UserError
from harness.order import work_of

if TYPE_CHECKING:
    from harness.forecast import Forecast
    from harness.plan import Plan

# At most so many runs on one device by themselves: more of them share its arithmetic, not its memory.
MOST = 4
# What a run needs beyond what was measured of it: the allocator's gaps as a share, and the bytes of a CUDA
# context with its libraries.
_GAPS, _CONTEXT = 1.25, 0.75e9

Pack = int | Literal["auto"]


class Room:
    """The memory of one device, as a whole of 1 that runs take their shares of."""

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._change = threading.Condition()
        self._turn = threading.Lock()

    def take(self, share: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until a share is free, or until it is given up, and returns whether it was taken.

        Where no other run is, any share is free. Who waits is let in before those who come later, so that a
        large run is not kept out by small ones.

        Args:
            share: of the memory, at least 0; ``math.inf`` to be alone.
            given_up: asked about twice a second.
        """
        with self._turn, self._change:
            while self._shares and sum(self._shares) + share > 1:
                if given_up():
                    return False
                self._change.wait(0.5)
            self._shares.append(share)
            return True

    def leave(self, share: float) -> None:
        """Gives a share back."""
        with self._change:
            self._shares.remove(share)
            self._change.notify_all()


def pack(
    plan: Plan,
    forecast: Forecast,
    devices: Sequence[str],
    wanted: Pack,
    free: Callable[[Sequence[str]], float] | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Returns the plan, its runs with their shares of memory where that counts, and a device for each worker.

    Args:
        plan: what is to be done.
        forecast: knows the memory of runs like those.
        devices: where to, each named once.
        wanted: so many runs on each device, whatever they need; or ``auto`` for up to :data:`MOST` on each
            GPU, while by earlier records they fit beside each other. Runs without such records are alone.
        free: gives the bytes that are free on the fullest of some GPUs; asks them by itself.

    Raises:
        UserError: ``auto`` without a GPU.
    """
    if wanted != "auto":
        return plan, tuple(device for device in devices for _ in range(wanted))
    if not all(device.startswith("cuda") for device in devices):
        raise UserError("--pack auto goes by the memory of GPUs: on the CPU give a number, e.g. --pack 2.")
    room = (free or _free)(devices)

    def share(memory: float | None) -> float:
        return math.inf if memory is None else (_GAPS * memory + _CONTEXT) / room

    tasks = tuple(replace(task, share=share(forecast.expect(work_of(task)).memory)) for task in plan.tasks)
    workers = max(1, min(MOST, (os.cpu_count() or 1) // len(devices)))
    return replace(plan, tasks=tasks), tuple(device for device in devices for _ in range(workers))


def _free(devices: Sequence[str]) -> float:
    # In a process that ends: one that has asked CUDA keeps a context on the GPU, and counts as busy there.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return min(pool.map(_free_on, devices))


def _free_on(device: str) -> float:
    import torch

    return float(torch.cuda.mem_get_info(device)[0])
