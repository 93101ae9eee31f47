"""The executor that a command line names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.common.errors import UserError
from harness.execution.executors.protocol import Place


@contextmanager
def executor(name: str, device: str, address: str | None, per_run: float | None) -> Iterator[Place]:
    """Gives the executor that a command line names.

    Args:
        name: ``local`` or ``ray``.
        device: as typed, see :func:`harness.execution.devices.find_devices`; of Ray ``auto``, ``cpu`` or
            ``cuda``.
        address: of the Ray cluster; ``None`` for one of this machine's own, as long as it is needed.
        per_run: GPUs of each run on Ray, or CPUs where there are none; ``None`` for 1.

    Raises:
        UserError: there is no such device or cluster, Ray is not installed, or options do not go together.
    """
    if name == "ray":
        try:
            from harness.execution.executors.ray import connected
        except ImportError as error:
            raise UserError(
                f'--executor ray needs Ray ({error}): run pip install "ulsad-bench[ray]".'
            ) from error
        with connected(address, device, per_run or 1.0) as place:
            yield place
        return
    for option, given in (("--address", address), ("--per-run", per_run)):
        if given is not None:
            raise UserError(f"{option} {given} is for Ray only: add --executor ray, or leave it out.")
    from harness.execution.devices import find_devices
    from harness.execution.executors.local import run_all

    devices = find_devices(device)
    yield Place(devices, ", ".join(devices), run_all)
