"""Ours and a peer's, timed in turn in one process: only their ratio means anything on a shared machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.profiling.timing import quantity
from harness.spec.efficiency import Quantity

Work = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Two ways to the same result.

    Attributes:
        name: of the comparison.
        ours: our way.
        peer: the other.
        peer_name: what the other is.
        target: how many times faster (or smaller) ours should be at least.
        rounds: how often each is measured.
        unit: ``s``, or another where ``ours`` and ``peer`` return what they cost.
        note: what was computed.
    """

    name: str
    ours: Work
    peer: Work
    peer_name: str
    target: float
    rounds: int = 5
    unit: str = "s"
    note: str = ""


@dataclass(frozen=True)
class Compared:
    """How many times more the peer costs, with both costs."""

    pair: Pair
    ratio: Quantity
    ours: Quantity
    peer: Quantity

    @property
    def reached(self) -> bool:
        """Whether the median ratio is as high as it should be."""
        return self.ratio.median >= self.pair.target

    def line(self) -> str:
        """The result in one line."""
        unit, ratio = self.pair.unit, self.ratio
        said = "" if self.reached else ", NOT REACHED"
        return (
            f"{self.pair.name}: {ratio.median:.2f} times {'faster' if unit == 's' else 'less'} than "
            f"{self.pair.peer_name} ({ratio.low:.2f} to {ratio.high:.2f}, {ratio.count} rounds; "
            f"{self.ours.median:.3g} against {self.peer.median:.3g} {unit}; "
            f"at least {self.pair.target:g}{said})"
        )


def compare(pair: Pair) -> Compared:
    """Measures both in turn, after one round that does not count, each first in every other round."""
    both = (pair.ours, pair.peer)
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(pair.rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            cost = _cost(both[side], pair.unit)
            if number:
                costs[side].append(cost)
    ratios = [theirs / ours for ours, theirs in zip(*costs, strict=True)]
    return Compared(pair, quantity(ratios), quantity(costs[0]), quantity(costs[1]))


def _cost(work: Work, unit: str) -> float:
    if unit != "s":
        return float(work())  # type: ignore[arg-type]
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
