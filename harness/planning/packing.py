"""How many runs a device takes at a time, by the memory that earlier ones took."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.planning.options import Pack
from harness.planning.order import work_of

if TYPE_CHECKING:
    from harness.planning.forecast import Forecast
    from harness.planning.options import Pack
from harness.planning.plan import Plan

# At most so many runs on one device by themselves: more of them share its arithmetic, not its memory.
MOST = 4
# What a run needs beyond what was measured of it: the allocator's gaps as a share, and the bytes of a CUDA
# context with its libraries.
_GAPS, _CONTEXT = 1.25, 0.75e9


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
