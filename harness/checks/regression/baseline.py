"""The baseline: what one set of results amounts to, as a small file that people can review.

Scores are percent points, times seconds, memory MiB. A check summarises the new results in the same way
(:mod:`harness.checks.regression.gather`) and compares two of these values. Fields are only ever added, and
``SCHEMA_VERSION`` is raised when their meaning changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.text import plain
from harness.common.values import Frozen
from harness.spec.metrics import METRICS, shown

SCHEMA_VERSION = 1
# The scores that are checked, by their names in records, with those for people.
SCORES: Mapping[str, str] = {name: METRICS[name].in_sentence for name in shown("check")}


def _checked(name: str) -> str:
    if name not in SCORES:
        raise ValueError(f"'{name}' is no score that is checked: {', '.join(SCORES)} are")
    return name


ScoreName = Annotated[str, AfterValidator(_checked)]
# Costs: what a run takes, with the unit.
COSTS = {"fit": "s", "predict": "s", "memory_host": "MiB", "memory_device": "MiB"}
# Lines of the file hold what is smaller than this together.
_LINE = 100


Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
CostValue = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Score(Frozen):
    """One metric of a cell, in percent.

    Attributes:
        mean: over seeds.
        spread: sample standard deviation over seeds, ``None`` with one seed.
        seeds: by seed, one value for each results folder. Only these are compared.
    """

    mean: Percent
    spread: Percent | None
    seeds: dict[str, Annotated[list[Percent], Field(min_length=1)]] = Field(min_length=1)


class Hardware(Frozen):
    """What a cell's runs took on one kind of machine: a value for each run, ascending.

    Attributes:
        fit: seconds of training.
        predict: seconds of scoring all test images.
        memory_host: peak MiB of the process above its beginning.
        memory_device: peak MiB of the GPU's allocator.
    """

    fit: list[CostValue] = Field(default_factory=list)
    predict: list[CostValue] = Field(default_factory=list)
    memory_host: list[CostValue] = Field(default_factory=list)
    memory_device: list[CostValue] = Field(default_factory=list)


class BaselineCell(Frozen):
    """A method with its settings on one category under one protocol, all seeds together.

    Attributes:
        method: the method's name, with every hyper-parameter that was set: ``ulsad[epochs=60]``.
        setup: what else was not left at its default, e.g. ``128 px, native``; empty for nothing.
        fingerprint: name in :attr:`Baseline.fingerprints`.
        weights: digests of pretrained weights and assets.
        data: fingerprint of the category's files.
        defects: digest of the category's table of defects.
        counts: images by role: ``train``, ``validation``, ``test``; empty in older baselines.
        method_version: see :class:`harness.spec.run.Identity`, like ``score_rule``, ``source`` and
            ``config``.
        environments: names in :attr:`Baseline.environments`.
        finished: when the last of the runs ended.
        scores: by metric.
        costs: by hardware, e.g. ``NVIDIA H100, AMD EPYC 9R14``.
    """

    dataset: str
    category: str
    method: str
    protocol: str
    setup: str = ""
    fingerprint: str
    weights: dict[str, str]
    data: str
    defects: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
    method_version: int
    score_rule: str
    source: str = ""
    config: dict[str, Any]
    environments: list[str]
    finished: str
    scores: dict[ScoreName, Score] = Field(min_length=1)
    costs: dict[str, Hardware]

    @property
    def slot(self) -> tuple[str, str, str, str]:
        """What a cell is looked for by; two cells of one slot may still not be comparable."""
        return (self.dataset, self.category, self.method, self.protocol)

    @property
    def name(self) -> str:
        """``mpdd/metal_plate/ulsad[epochs=60]/strict``, with a setup in brackets where there is one."""
        return "/".join(self.slot) + (f" ({self.setup})" if self.setup else "")


class Baseline(Frozen):
    """What later results are checked against.

    Attributes:
        version: of ulsad-bench.
        fingerprints: the protocol fingerprints by their short names, less what differs between methods.
        environments: hardware, versions and commits by a digest.
        cells: in the order of their names.
    """

    schema_version: int = SCHEMA_VERSION
    version: str
    fingerprints: dict[str, dict[str, Any]]
    environments: dict[str, dict[str, Any]]
    cells: list[BaselineCell] = Field(min_length=1)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Writes a baseline: keys sorted, a seed or a list of times to the line, the same for the same results.

    Raises:
        UserError: the file cannot be written.
    """
    text = _pretty(baseline.model_dump(mode="json", exclude={"cells"}) | {"cells": _dump(baseline)}, 0)
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        raise UserError(f"{plain(path)} cannot be written ({error.strerror or error}).") from error


def read_baseline(path: Path) -> Baseline:
    """Reads a baseline.

    Raises:
        UserError: there is no such file, it is no baseline, or one of a newer schema.
    """
    shown = plain(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"The baseline {shown} cannot be read ({reason}): make one by `bench baseline`."
        ) from error
    try:
        found = json.loads(content)
        newer = found.get("schema_version", 1) if isinstance(found, dict) else 1
        if isinstance(newer, int) and newer > SCHEMA_VERSION:
            raise UserError(
                f"The baseline {shown} has schema version {newer}, this ulsad-bench reads up to "
                f"{SCHEMA_VERSION}: update ulsad-bench, or make the baseline again."
            )
        baseline = Baseline.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = plain(".".join(str(part) for part in first["loc"]))
        raise UserError(f"{shown} is no baseline: {where + ': ' if where else ''}{first['msg']}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown} is no baseline: it is not JSON ({plain(error)}).") from error
    seen: set[str] = set()
    for cell in baseline.cells:
        if cell.name in seen:
            raise UserError(f"{shown} is no baseline: it has the cell {plain(cell.name)} twice.")
        seen.add(cell.name)
    return baseline


def _dump(baseline: Baseline) -> list[dict[str, Any]]:
    return [cell.model_dump(mode="json", exclude_defaults=True) for cell in baseline.cells]


def _pretty(value: Any, depth: int) -> str:
    """JSON in which what fits a line stays on one: a changed seed is a changed line."""
    line = json.dumps(value, sort_keys=True)
    nested = isinstance(value, dict) and any(
        isinstance(item, dict | list) and item for item in value.values()
    )
    if not isinstance(value, dict | list) or not value or (len(line) <= _LINE and not nested):
        return line
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        rows = [f"{pad}{json.dumps(key)}: {_pretty(item, depth + 1)}" for key, item in sorted(value.items())]
        return "{\n" + ",\n".join(rows) + f"\n{' ' * depth}}}"
    return "[\n" + ",\n".join(f"{pad}{_pretty(item, depth + 1)}" for item in value) + f"\n{' ' * depth}]"
