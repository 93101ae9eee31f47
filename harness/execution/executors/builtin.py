"""The executors ``local`` and ``ray`` by name; what they are made of is loaded when they open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.common.errors import UserError
from harness.execution.executors.protocol import Executor, Option, ReadyExecutor

_OF_RAY = (
    Option(
        "--address",
        str,
        "The Ray cluster: auto for the one this machine is in, or host:6379.  [default: one of this machine "
        "alone, ended with the command]",
    ),
    Option(
        "--per-run",
        float,
        "GPUs of each run on Ray, or CPUs without GPUs; 0.5 puts two runs on a GPU.  [default: 1]",
    ),
)


@contextmanager
def _local(device: str, _: Mapping[str, Any]) -> Iterator[ReadyExecutor]:
    from harness.execution.devices import find_devices
    from harness.execution.executors.local import run_all

    devices = find_devices(device)
    yield ReadyExecutor(devices, ", ".join(devices), run_all)


@contextmanager
def _ray(device: str, given: Mapping[str, Any]) -> Iterator[ReadyExecutor]:
    try:
        from harness.execution.executors.ray import connected
    except ImportError as error:
        raise UserError(f'--executor ray needs Ray ({error}): run pip install "ulsad-bench[ray]".') from error
    per_run = given.get("per_run")
    if per_run is not None and not per_run > 0:
        raise UserError(f"--per-run {per_run:g}: a run needs more than nothing; 0.5 puts two on a GPU.")
    with connected(given.get("address"), device, per_run or 1.0) as place:
        yield place


LOCAL = Executor("processes of this machine", (), _local)
RAY = Executor("a Ray cluster (docs/cluster.md)", _OF_RAY, _ray)
