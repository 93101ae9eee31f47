"""Records of an earlier content of a private method's file, which count again when it is back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.results.artefacts import claim_path
from harness.results.store import (
    Folder,
    rank,
    record_names,
    record_path,
    replace_record,
)
from harness.spec.record import RunRecord

if TYPE_CHECKING:
    from harness.planning.task import RunTask
from harness.results.sequence import next_number


def take_up(results: Path, kept: Iterable[RunTask]) -> list[RunRecord]:
    """Has records of private methods count that are of their file's present content.

    Whoever goes back to an earlier content of a file finds its runs done; but those of the later content were
    recorded after them. Returns the records that got a new number.

    Args:
        results: the results folder.
        kept: runs that are done, their method's file being as it is now.

    Raises:
        UserError: the folder cannot be read or written.
    """
    own: dict[str, list[RunTask]] = defaultdict(list)
    for task in kept:
        if task.identity.source:
            own[_place(record_path(Path(), task.spec, task.key))].append(task)
    if not own:
        return []
    folder, taken = Folder(results), list[RunRecord]()
    others: dict[str, list[str]] = defaultdict(list)
    for name in record_names(results):
        others[name.rpartition("/")[0]].append(name)
    for place, tasks in own.items():
        keys = {f"{place}/{task.key}.json" for task in tasks}
        rivals: dict[str, RunRecord] = {}
        for name in others[place]:
            if name not in keys and isinstance(record := folder.record(name), RunRecord):
                run = record.spec.model_dump_json()
                rivals[run] = max(rivals.get(run, record), record, key=rank)
        for task in tasks:
            rival = rivals.get(task.spec.model_dump_json())
            if rival is not None and (renumbered := _renumbered(folder, task, rival)):
                taken.append(renumbered)
    return taken


def _renumbered(folder: Folder, task: RunTask, rival: RunRecord) -> RunRecord | None:
    path = record_path(folder.results, task.spec, task.key)
    lock = FileLock(claim_path(path), thread_local=False)
    # Whoever has claimed the run writes its record, with a new number.
    with suppress(Timeout), lock.acquire(blocking=False):
        try:
            known = folder.record(path.relative_to(folder.results).as_posix())
            if isinstance(known, RunRecord) and rank(known) < rank(rival):
                record = known.model_copy(update={"order": next_number(folder.results)})
                replace_record(folder.results, path, record)
                return record
        finally:
            claim_path(path).unlink(missing_ok=True)
    return None


def _place(path: Path) -> str:
    return path.parent.as_posix()
