"""The executor that a command line names, among those that are installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.common.errors import UserError, nearest
from harness.execution.executors.protocol import Executor, ReadyExecutor

GROUP = "ulsad_bench.executors"


@cache
def executors() -> dict[str, Executor]:
    """Returns the executors that are installed, by name.

    Raises:
        UserError: an entry point names something else.
    """
    return {point.name: checked(point, point.load()) for point in sorted(entry_points(group=GROUP))}


def checked(point: EntryPoint, loaded: object) -> Executor:
    """Returns what an entry point names.

    Raises:
        UserError: it is no executor.
    """
    if not isinstance(loaded, Executor):
        raise UserError(f"The executor '{point.name}' ({point.value}) is no Executor: remove its package.")
    return loaded


@contextmanager
def opened(name: str, device: str, given: Mapping[str, Any]) -> Iterator[ReadyExecutor]:
    """Gives the executor that a command line names.

    Args:
        name: of the executor.
        device: as typed.
        given: options of all executors by key, ``None`` where they are not given.

    Raises:
        UserError: there is no such executor, it cannot be used, or an option is another one's.
    """
    known = executors()
    if name not in known:
        raise UserError(f"There is no executor '{name}'. {nearest(name, known)}")
    for other, executor in known.items():
        for option in executor.options:
            if other != name and given.get(option.key) is not None:
                raise UserError(
                    f"{option.name} {given[option.key]} is for --executor {other} only: add that, or leave "
                    "it out."
                )
    with known[name].open(device, given) as place:
        yield place
