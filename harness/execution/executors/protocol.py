"""What an executor is, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from harness.method import Epoch
    from harness.planning.task import RunTask
    from harness.spec.record import RunRecord


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
    saved, and :class:`harness.common.errors.Terminated` is raised. The caller writes the records, and does so
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
class ReadyExecutor:
    """An executor that is ready.

    Attributes:
        devices: where runs compute, one for each that goes on at a time.
        about: the same in a few words.
    """

    devices: tuple[str, ...]
    about: str
    run_all: RunAll


@dataclass(frozen=True)
class Option:
    """An option that an executor adds to the command line.

    Attributes:
        name: ``--slurm-partition``; given on as ``slurm_partition``, ``None`` where it is not there.
        kind: of its value.
        help: one sentence.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    help: str

    @property
    def key(self) -> str:
        """The name that its value is given on under."""
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Executor:
    """What an entry point of the group ``ulsad_bench.executors`` names: a way to execute runs.

    Its module is loaded for the help text of `bench run`; whatever is heavy or need not be installed is
    imported when it opens.

    Attributes:
        about: what executes the runs, in a few words.
        options: that it alone has.
        open: given the device as typed and its options by key, makes it ready for a ``with`` block; a
            :class:`harness.UserError` says what is missing.
    """

    about: str
    options: tuple[Option, ...]
    open: Callable[[str, Mapping[str, Any]], AbstractContextManager[ReadyExecutor]]
