"""A run with all that a worker needs to execute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.common.defaults import CHECKPOINT_EVERY
from harness.common.places import Places
from harness.registry.weights import Weights
from harness.results.store import record_path
from harness.spec.run import Identity, RunSpec


@dataclass(frozen=True, slots=True)
class RunTask:
    """A run with all that a worker needs to execute it.

    Attributes:
        method: name of an entry point, or ``/path/to/file.py:Class``.
        card: name of a built-in card, or the path of a card.
        places: where datasets, the cache and the results lie.
        assets: folder of each asset that the method needs, by name.
        keep: artefacts to leave beside the record: ``maps``, ``weights``, ``parts``.
        checkpoint_every: seconds between two checkpoints of a training at least.
        measure: seconds that measuring the efficiency may take; ``None`` for a share of the run's own.
        suite: what the suite says of itself, for the report.
        categories: all categories of the dataset.
        split_categories: see :class:`RunRecord`.
        made_from: the run whose kept parts give this one's record, see ``harness.execution.postprocessing``;
            ``None`` for a run that is trained.
        images: how many images it trains and tests on, by which its time is predicted; 0 where not known.
        share: the part of its device's memory that it takes beside others, see
            ``harness.execution.executors.device_memory``.
    """

    spec: RunSpec
    identity: Identity
    key: str
    method: str
    card: str
    places: Places
    device: str
    weights: Mapping[str, Weights]
    assets: Mapping[str, Path] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()
    checkpoint_every: float = CHECKPOINT_EVERY
    measure: float | None = None
    suite: str = ""
    categories: tuple[str, ...] = ()
    split_categories: Mapping[str, tuple[str, ...]] | None = None
    made_from: RunTask | None = None
    images: tuple[int, int] = (0, 0)
    share: float = 0.0

    @property
    def record_path(self) -> Path:
        """Where its record lies, or will."""
        return record_path(self.places.results, self.spec, self.key)
