"""What reading a results folder gives: records, and files that are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.spec.record import RunRecord


@dataclass(frozen=True)
class Damaged:
    """A file that is no readable record.

    Attributes:
        why: in a few words, to go on after the file's name.
    """

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True)
class Loaded:
    """What a results folder holds.

    Attributes:
        records: every readable record, in the order of their paths.
        damaged: path and reason of every file that is no readable record; they count as not run.
    """

    records: tuple[RunRecord, ...]
    damaged: tuple[tuple[Path, str], ...]
