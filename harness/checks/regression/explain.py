"""One cell in full: seeds, what differs between then and now, and the likely reason in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.checks.regression.baseline import SCORES, Baseline, BaselineCell
from harness.checks.regression.comparison import match
from harness.checks.regression.gather import Gathered, condition_changes, incomparable
from harness.checks.regression.verdict import Report, Verdict
from harness.common.errors import UserError, nearest
from harness.common.text import plain

# The first of these that differ is named as the reason.
_SUSPECTS = (
    ("gpu", "another GPU"),
    ("cpu", "another CPU"),
    ("device", "another device"),
    ("packages.torch", "another torch"),
    ("packages.anomalib", "another anomalib"),
    ("packages.timm", "another timm"),
    ("packages.torchvision", "another torchvision"),
    ("cuda", "another CUDA"),
    ("driver", "another driver"),
    ("threads", "another number of threads"),
    ("packages.", "another version of a package"),
    ("python", "another Python"),
    ("platform", "another operating system"),
    ("git", "another commit of ulsad-bench"),
)


def find_cell(text: str, baseline: Baseline) -> BaselineCell:
    """Returns the cell that is named, or the only one whose name contains ``text``.

    Raises:
        UserError: there is none, or there are several.
    """
    exact = [cell for cell in baseline.cells if cell.name == text]
    found = exact or [cell for cell in baseline.cells if text.lower() in cell.name.lower()]
    if len(found) == 1:
        return found[0]
    names = [plain(cell.name) for cell in baseline.cells]
    if not found:
        raise UserError(f"The baseline has no cell '{plain(text)}'. {nearest(plain(text), names)}")
    few = ", ".join(plain(cell.name) for cell in found[:5])
    raise UserError(
        f"'{plain(text)}' names {len(found)} cells of the baseline ({few}…): give more of the name."
    )


def explain(cell: BaselineCell, baseline: Baseline, found: Gathered, report: Report) -> Iterator[str]:
    """Yields the lines about a cell, harmless to print."""
    verdict = next(v for v in report.verdicts if v.name == cell.name and not v.group)
    now = match(cell, found)
    yield f"{plain(cell.name)}: {verdict.answer}"
    yield from (f"  {plain(line)}" for line in (*verdict.reasons, *verdict.notes))
    if now is None:
        yield f"Likely reason: {_missing(found.failed.get(cell.slot, []))}"
        return
    yield from _seeds(cell, now)
    for cost in verdict.costs:
        ratio = 100 * (cost.now / cost.baseline - 1)
        values = f"{cost.baseline:.4g} → {cost.now:.4g} {cost.unit} ({ratio:+.1f} %)"
        yield f"  {cost.what} on {plain(cost.hardware)}: {values}; {cost.rule}"
    yield "Differences between the baseline and now:"
    environment = environment_changes(cell, now, baseline.environments, found.environments)
    identity = condition_changes(cell, now)
    lines = [*identity, *(f"{key} {before} → {after}" for key, (before, after) in environment.items())]
    yield from (f"  {plain(line)}" for line in lines or ["none that the records know of"])
    yield f"Likely reason: {plain(_reason(verdict, cell, now, identity, environment))}"


def environment_changes(
    cell: BaselineCell,
    now: BaselineCell,
    before: Mapping[str, dict[str, Any]],
    after: Mapping[str, dict[str, Any]],
) -> dict[str, tuple[str, str]]:
    """Returns what differs between the environments of two cells: ``{"packages.torch": ("2.4", "2.5")}``."""
    old = [_flat(before[name]) for name in cell.environments if name in before]
    new = [_flat(after[name]) for name in now.environments if name in after]
    found = {}
    for key in sorted({key for side in (*old, *new) for key in side}):
        sides = tuple(" or ".join(sorted({flat.get(key, "–") for flat in flats})) for flats in (old, new))
        if sides[0] != sides[1]:
            found[key] = (sides[0], sides[1])
    return found


def pattern(change: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Returns in words how the seeds of a cell changed; ``change`` in percent points by seed."""
    size = np.abs(change)
    if size.max() < 0.001:
        return "no seed has changed at all"
    if len(change) < 3:
        return "too few seeds to see a pattern"
    rest = np.delete(change, size.argmax())
    if size.max() > 2 and size.max() > 5 * np.abs(rest).max():
        return "one seed alone has changed: a training that went wrong"
    if abs(change.mean()) > 2 * change.std(ddof=1):
        return "all seeds have changed alike: something systematic"
    return "each seed has changed at random, as another library or machine does"


def _seeds(cell: BaselineCell, now: BaselineCell) -> Iterator[str]:
    for metric, score in cell.scores.items():
        later = now.scores[metric].seeds if metric in now.scores else {}
        yield f"  {SCORES[metric]}, %: seed, baseline, now, difference"
        change = []
        for seed, values in score.seeds.items():
            before = float(np.mean(values))
            if seed in later:
                after = float(np.mean(later[seed]))
                change.append(after - before)
                yield f"    {plain(seed):>4} {before:9.3f} {after:9.3f} {after - before:+9.3f}"
            else:
                yield f"    {plain(seed):>4} {before:9.3f}         –"
        if change:
            yield f"    {pattern(np.array(change))}"


def _reason(
    verdict: Verdict,
    cell: BaselineCell,
    now: BaselineCell,
    identity: list[str],
    environment: Mapping[str, tuple[str, str]],
) -> str:
    if forbidding := incomparable(cell, now):
        return (
            f"the two were measured under different conditions ({'; '.join(forbidding)}): make a new baseline"
        )
    worse = [compared.what for compared in (*verdict.scores, *verdict.costs) if compared.worse]
    changed = verdict.answer == "score changed"
    if not worse and not changed:
        return "nothing is worse" if verdict.answer == "ok" else "runs are missing: run the same suite again"
    if identity:
        return f"the method itself changed ({'; '.join(identity)})"
    for key, words in _SUSPECTS:
        if others := [
            name for name in environment if name == key or (key[-1] == "." and name.startswith(key))
        ]:
            before, after = environment[others[0]]
            return f"{words} ({others[0]} {before} → {after})"
    if changed or any(compared.worse for compared in verdict.scores):
        return (
            "nothing that records know of differs: arithmetic that is not deterministic, or uncommitted code"
        )
    return "nothing that records know of differs: other load on the machine, its clocks or its cooling"


def _missing(failed: list[str]) -> str:
    if failed:
        return f"its runs failed, first: {plain(failed[0])}"
    return "its runs were not started, or the results are in another folder"


def _flat(environment: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in environment.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
