"""Where runs execute: one module per executor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.execute import RunTask
    from harness.method import Epoch
    from harness.spec import RunRecord


# What a record says of a run that was tried twice.
AGAIN = "A run was out of memory at first and was tried once more, alone on its device."


def once_more(record: RunRecord | None) -> bool:
    """Whether a run is tried once more, with nothing else on its device."""
    return record is not None and record.outcome == "out_of_memory"


def tried_again(record: RunRecord) -> RunRecord:
    """Returns the record of the second time, which says so, whatever came of it."""
    return record.model_copy(update={"remarks": [*record.remarks, AGAIN]})


class RunAll(Protocol):
    """Executes runs and yields a record for each as they end.

    What all executors have in common is this one call, not submit, results, cancel and close: an executor
    takes a run when it has room for it, so that none is claimed which cannot begin; it hands on what comes
    of it; and closing the generator cancels what goes on and leaves nothing behind.

    ``None`` comes in between about once a second, for the caller to look round. Where the system asks this
    process to end (SIGTERM), no further run begins, those that go on have some seconds to end or to be
    saved, and :class:`harness.errors.Terminated` is raised. The caller writes the records, and does so
    alone; workers leave checkpoints, and what is to be kept, beside the record that is to be.
    """

    def __call__(
        self,
        tasks: Iterator[RunTask | None],
        devices: Sequence[str],
        timeout: float | None,
        on_start: Callable[[RunTask], None],
        on_epoch: Callable[[RunTask, Epoch], None],
    ) -> Generator[RunRecord | None, None, None]:
        """Begins; see the class.

        Args:
            tasks: the runs; they begin in this order. ``None``: no run at the moment.
            devices: where to; as many as runs go on at a time.
            timeout: seconds after which a run is ended and recorded as ``timeout``; ``None`` for no limit.
            on_start: told of every run that begins, in the caller's thread.
            on_epoch: told of every epoch that ends, likewise.
        """


@dataclass(frozen=True)
class Place:
    """An executor that is ready.

    Attributes:
        devices: where runs compute, one for each that goes on at a time.
        about: the same in a few words.
    """

    devices: tuple[str, ...]
    about: str
    run_all: RunAll


@contextmanager
def executor(name: str, device: str, address: str | None, per_run: float | None) -> Iterator[Place]:
    """Gives the executor that a command line names.

    Args:
        name: ``local`` or ``ray``.
        device: as typed, see :func:`harness.devices.find_devices`; of Ray ``auto``, ``cpu`` or ``cuda``.
        address: of the Ray cluster; ``None`` for one of this machine's own, as long as it is needed.
        per_run: GPUs of each run on Ray, or CPUs where there are none; ``None`` for 1.

    Raises:
        UserError: there is no such device or cluster, Ray is not installed, or options do not go together.
    """
    if name == "ray":
        try:
            from harness.executors.ray import connected
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
    from harness.devices import find_devices
    from harness.executors.local import run_all

    devices = find_devices(device)
    yield Place(devices, ", ".join(devices), run_all)
