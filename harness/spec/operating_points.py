"""Operating points of a run as one value: thresholds, and what they do on the test set; see docs/line.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from harness.common.values import Frozen

Rule = Literal["quantile", "extreme value", "frontier"]
# Shares of normal images that a threshold may be meant to stop.
TARGETS = (0.05, 0.01)
# The 97.5 % point of the normal distribution.
_Z = 1.959963984540054


class Rate(Frozen):
    """A share in [0, 1] with its 95 % interval by Wilson's score (JASA 1927)."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """For people, in percent: ``3.1 % (0.6 to 15.7)``."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def wilson(hits: int, count: int) -> Rate | None:
    """Returns the share of ``hits`` among ``count`` with its interval, ``None`` for a count of 0."""
    if count == 0:
        return None
    share, z2 = hits / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # At the ends the interval reaches 0 and 1, which rounding must not miss.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return Rate(value=share, low=low, high=1.0 if hits == count else min(1.0, centre + half))


class Threshold(Frozen):
    """A threshold: an image whose score is above it is stopped.

    Attributes:
        rule: ``quantile`` and ``extreme value`` come from normal validation images alone, ``frontier`` from
            the test images.
        target: share of normal images that it is meant to stop; ``None`` for the frontier.
        value: the threshold.
        above: how many test images are stopped, by group, see :attr:`Operating.images`.
    """

    rule: Rule
    target: float | None = None
    value: float
    above: dict[str, int]

    @property
    def name(self) -> str:
        """For people: ``quantile, 1 %``."""
        return self.rule if self.target is None else f"{self.rule}, {100 * self.target:g} %"


class Operating(Frozen):
    """Thresholds of one run and what they do; of the last epoch, whose state ``--keep weights`` leaves.

    Attributes:
        validation: normal validation images that thresholds are from.
        images: test images by group: ``normal``, ``all`` anomalous ones, and each kind of them.
        thresholds: by rule and target.
        frontier: of all thresholds on the test images those that are best for some costs: the corners of
            the ROC curve's convex hull, from the highest threshold to the lowest.
        fpr: ``{split: {"0.95": …}}``: share of normal test images stopped where at least so much of the
            anomalous ones is.
        map_range: median and maximum of the pixels of the validation images' maps.
        left_out: what there is not, or what is less than it looks, and why.
    """

    validation: int
    images: dict[str, int]
    thresholds: list[Threshold] = Field(default_factory=list)
    frontier: list[Threshold] = Field(default_factory=list)
    fpr: dict[str, dict[str, float]] = Field(default_factory=dict)
    map_range: tuple[float, float] | None = None
    left_out: list[str] = Field(default_factory=list)

    def rate(self, threshold: Threshold, group: str) -> Rate | None:
        """The share of a group that a threshold stops: the false-alarm rate of ``normal``, else recall."""
        return wilson(threshold.above.get(group, 0), self.images.get(group, 0))

    def find(self, rule: str, target: float) -> Threshold | None:
        """Returns the threshold of a rule and a target, ``None`` where it was left out."""
        found = (t for t in self.thresholds if t.rule == rule and t.target == target)
        return next(found, None)


@dataclass(frozen=True)
class Costs:
    """What mistakes cost, in any unit of money.

    Attributes:
        false_alarm: of stopping a good part.
        miss: of letting a defective part pass.
        defect_rate: share of defective parts on the line, in [0, 1].
    """

    false_alarm: float
    miss: float
    defect_rate: float

    def per_part(self, false_alarm_rate: float, recall: float) -> float:
        """Returns what mistakes cost per part on average."""
        good = (1 - self.defect_rate) * self.false_alarm * false_alarm_rate
        return good + self.defect_rate * self.miss * (1 - recall)


@dataclass(frozen=True)
class Choice:
    """A way of working, and what its mistakes cost.

    Attributes:
        name: for people.
        threshold: ``None`` for letting all parts pass, and for stopping all.
        cost: per part.
    """

    name: str
    threshold: Threshold | None
    cost: float


def choices(operating: Operating, costs: Costs) -> Iterator[Choice]:
    """Yields all thresholds of a run with their costs, the cheapest on the test images, and doing without.

    Of all thresholds one of :attr:`Operating.frontier` is the cheapest on the test images, or none is cheaper
    than letting all parts pass or stopping all.

    Raises:
        ValueError: there are no normal or no anomalous test images.
    """
    for threshold in operating.thresholds:
        yield Choice(threshold.name, threshold, _cost(operating, threshold, costs))
    if operating.frontier:
        best = min(operating.frontier, key=lambda t: _cost(operating, t, costs))
        yield Choice("cheapest on the test images", best, _cost(operating, best, costs))
    yield Choice("let all parts pass", None, costs.per_part(0.0, 0.0))
    yield Choice("stop all parts", None, costs.per_part(1.0, 1.0))


def _cost(operating: Operating, threshold: Threshold, costs: Costs) -> float:
    alarms, recall = operating.rate(threshold, "normal"), operating.rate(threshold, "all")
    if alarms is None or recall is None:
        raise ValueError("costs need normal and anomalous test images")
    return costs.per_part(alarms.value, recall.value)
