"""What is asked for: one value for `bench run`, `bench plan`, `bench prepare` and :func:`harness.run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.common.defaults import CHECKPOINT_EVERY
from harness.common.errors import UserError
from harness.common.files import cache_dir
from harness.common.places import Places
from harness.planning.suites import load_suite, override
from harness.spec.run import Evaluate
from harness.spec.suite import Suite

Overwrite = Literal["never", "failed", "stale", "always"]
Pack = int | Literal["auto"]
_OF_SUITES = (
    *("methods", "datasets", "categories", "seeds", "protocols", "contamination"),
    *("image_size", "backbone", "evaluate"),
)
_KEPT = ("maps", "weights", "parts")


def _data_root() -> Path | None:
    given = os.environ.get("BENCH_DATA")
    return Path(given) if given else None


@dataclass(frozen=True)
class RunOptions:
    """The options of `bench run`, by the names that they have there; ``None``: as the suite has it.

    Attributes:
        suite: name of a built-in suite, path of a TOML file, or a suite; the demo where neither it nor
            datasets are given.
        methods: as typed: ``ulsad[lambda_l=0]``, ``my.py:MyMethod``.
        datasets: names of built-in cards, or paths of cards.
        categories: ``screw`` or ``mvtec/screw``; empty for all.
        seeds: of everything random.
        protocols: by name.
        contamination: shares of anomalous images among the training images.
        image_size: side of the images in pixels.
        backbone: for every method that has one.
        evaluate: where pixel metrics are computed.
        assignments: hyper-parameters, ``ulsad.epochs=100``.
        backbone_weights: ``none`` for random ones, which are marked everywhere.
        limit_train: at most so many training images.
        device: ``auto``, ``cpu``, ``cuda:0,cuda:1``, ``all``.
        data_root: folder of datasets; ``BENCH_DATA`` by default.
        results: the results folder.
        overwrite: which runs that have a record are done again, see :class:`harness.planning.plan.Options`.
        checkpoint_every: seconds between two checkpoints of a training at least.
        measure: seconds for measuring the efficiency of a run; ``None`` for a share of its own time.
        keep: what is left beside the records: ``maps``, ``weights``, ``parts``.
        executor: what executes the runs.
        executor_options: its own options, by key: ``{"per_run": 0.5}``.
        timeout: seconds after which a run is ended.
        pack: runs on each device at a time.
        report_to: folder of the report that is written at the end; ``None`` for none.
        quiet: whether nothing is said but failures.
        command: the command line, for the records.
    """

    suite: str | Suite | None = None
    methods: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    categories: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    protocols: Sequence[str] | None = None
    contamination: Sequence[float] | None = None
    image_size: int | None = None
    backbone: str | None = None
    evaluate: Evaluate | None = None
    assignments: Sequence[str] = ()
    backbone_weights: Literal["pretrained", "none"] = "pretrained"
    limit_train: int | None = None
    device: str = "auto"
    data_root: Path | None = field(default_factory=_data_root)
    results: Path = Path("results")
    overwrite: Overwrite = "failed"
    checkpoint_every: float = CHECKPOINT_EVERY
    measure: float | None = None
    keep: Sequence[str] = ()
    executor: str = "local"
    executor_options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    pack: Pack = 1
    report_to: Path | None = Path("report")
    quiet: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("methods", "datasets", "categories", "protocols", "keep", "assignments"):
            if isinstance(value := getattr(self, name), str):
                raise UserError(f"{name} is a list of names: give ['{value}'], not '{value}'.")
        if stray := sorted(set(self.keep) - set(_KEPT)):
            raise UserError(f"--keep {stray[0]}: there are maps, weights and parts to keep.")

    @property
    def places(self) -> Places:
        """The folders that runs work with."""
        data_root = Path(self.data_root) if self.data_root is not None else None
        return Places(cache_dir(), data_root, Path(self.results))

    def chosen_suite(self) -> Suite:
        """Returns the suite that is asked for, with what is given in place of its own.

        Raises:
            UserError: there is no such suite, or a value that none can have.
        """
        chosen: dict[str, Any] = {n: value for n in _OF_SUITES if (value := getattr(self, n)) is not None}
        base = self.suite if isinstance(self.suite, Suite) else load_suite(self.suite or "demo")
        if self.suite is None and "datasets" in chosen:
            # A run of one's own, at the papers' values: nothing of the demo's cut trainings and small images.
            base = Suite(title="Runs", methods=base.methods, datasets=list(chosen["datasets"]))
        return override(base, chosen, self.assignments)
