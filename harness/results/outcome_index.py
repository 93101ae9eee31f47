"""How the runs of a results folder ended, remembered between commands.

Reading a hundred thousand records takes a minute; what a plan needs of each is two words. They are kept in
the cache beside what tells the file's content from another, and are only ever a copy: a record that has
changed, or that nothing is known of, is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harness.common.files import SETTLED_NS, write_atomically
from harness.results.artefacts import kept_file_name
from harness.results.parquet import Compacted
from harness.results.store import Damaged, Folder, read_record, state_of
from harness.spec.names import slug
from harness.spec.run import RunSpec

_FORMAT = 1
# Fewer records than these are read in no time, and leave no file behind.
_FEW = 1000


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        state: what tells the record from another content.
        outcome: the record's, empty where it cannot be read.
        metrics_version: the record's.
        damage: why it cannot be read.
    """

    state: tuple[int, int, int]
    outcome: str
    metrics_version: int
    damage: str = ""


class Seen:
    """The records of a results folder; compacted ones say by themselves how their runs ended."""

    def __init__(self, results: Folder, cache: Path) -> None:
        self._results = results
        name = hashlib.sha256(str(results.results.resolve()).encode()).hexdigest()[:16]
        self._file = cache / "seen" / f"{name}.json"
        self._known = self._remembered()
        self._found: dict[str, Ended] = {}
        self._folders: dict[tuple[str, str, str], str] = {}

    def look(self, spec: RunSpec, key: str) -> Ended | None:
        """Returns how a run ended, ``None`` where it has no record.

        Raises:
            UserError: a folder in the results cannot be read, or the compacted records cannot.
        """
        folder = self._folder(spec)
        path = f"{folder}{key}.json"
        entry = self._results.inside(folder).get(f"{key}.json")
        if entry is None:
            return _compacted(self._results.compacted_then(), path)
        if (state := state_of(entry)) is None:
            return _compacted(self._results.compacted(), path)
        known = self._known.get(path)
        if known is None or known.state != state:
            record = read_record(self._results.results / path)
            known = (
                Ended(state, "", 0, record.why)
                if isinstance(record, Damaged)
                else Ended(state, record.outcome, record.fingerprint.metrics_version)
            )
        self._found[path] = known
        return known

    def kept(self, spec: RunSpec, key: str, keep: Iterable[str]) -> bool:
        """Whether all artefacts lie beside a record."""
        inside = self._results.inside(self._folder(spec))
        return all(kept_file_name(key, what) in inside for what in keep)

    def remember(self) -> None:
        """Keeps what was found, where it is much and has changed."""
        if len(self._found) < _FEW or self._found.items() <= self._known.items():
            return
        now = time.time_ns()
        lasting = {p: e for p, e in self._found.items() if now - e.state[2] > SETTLED_NS}
        content = json.dumps({"format": _FORMAT, "ended": self._known | lasting}, separators=(",", ":"))
        # The cache may be full or not writable: then nothing is remembered.
        with contextlib.suppress(OSError):
            write_atomically(self._file, content.encode())

    def _remembered(self) -> dict[str, Ended]:
        try:
            content = json.loads(self._file.read_bytes())
            if content["format"] != _FORMAT:
                return {}
            return {p: Ended(tuple(s), o, m, d) for p, (s, o, m, d) in content["ended"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _folder(self, spec: RunSpec) -> str:
        own = (spec.dataset, spec.category, spec.method)
        if own not in self._folders:
            self._folders[own] = "".join(f"{slug(part)}/" for part in own)
        return self._folders[own]


def _compacted(there: Compacted | None, path: str) -> Ended | None:
    if there is None or (known := there.known(path)) is None:
        return None
    return Ended((0, known.size, known.modified), known.outcome, known.metrics_version)
