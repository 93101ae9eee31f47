"""How long a plan still takes: what is predicted of each run, corrected while the plan is carried out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.planning.forecast import Forecast, Workload
from harness.spec.record import RunRecord

# A run that goes on beyond what was expected of it still takes this share of its time until now.
_BEYOND = 0.1


@dataclass
class _Going:
    """A run that goes on: when it began, and its first and its last epoch with their times."""

    work: Workload
    began: float
    first: tuple[int, float] | None = None
    last: tuple[int, float] = (0, 0.0)
    of: int = 0

    @property
    def pace(self) -> float:
        """Seconds of an epoch, 0 while there have not been two of them."""
        if self.first is None or self.first[0] == self.last[0]:
            return 0.0
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


class TimeLeft:
    """Follows the runs of a plan; times are seconds of one clock, whichever.

    A training that tells of its epochs goes on at the pace of those it has had. Each record that is finished
    is learnt from. What a run takes beside what its record counts, such as measuring its speed, is added in
    proportion, as seen on the runs until now.

    Args:
        forecast: predicts the time of runs; it learns from those that end.
        runs: what each has to do, by key.
        workers: how many are executed at a time.
    """

    def __init__(self, forecast: Forecast, runs: Mapping[str, Workload], workers: int) -> None:
        self._forecast, self._workers = forecast, workers
        self._open = dict(runs)
        # Runs by what they have to do, for there may be a million of them.
        self._waiting = Counter(runs.values())
        self._going: dict[str, _Going] = {}
        self._spent = self._counted = 0.0

    def started(self, key: str, now: float) -> None:
        """A run begins, or begins once more."""
        if key not in self._going:
            self._waiting[self._open[key]] -= 1
        self._going[key] = _Going(self._open[key], now)

    def epoch(self, key: str, number: int, of: int, now: float) -> None:
        """An epoch of a run that goes on has ended."""
        going = self._going[key]
        if going.first is None or number <= going.last[0]:  # the first, or of a second try
            going.first = number, now
        going.last, going.of = (number, now), of

    def finished(self, record: RunRecord, now: float) -> None:
        """A run has ended, here or elsewhere; one that is not followed is passed over."""
        if (work := self._open.pop(record.key, None)) is None:
            return
        self._forecast.learn(record)
        if (going := self._going.pop(record.key, None)) is None:
            self._waiting[work] -= 1
        elif record.timings is not None and not record.resumed:
            self._spent += now - going.began
            self._counted += record.timings.total

    def left(self, now: float) -> float | None:
        """Returns the seconds until the last run ends, 0 if all have; ``None`` while nothing is measured."""
        if not self._forecast and not any(run.pace for run in self._going.values()):
            return None
        waiting = [(self._forecast.expect(work).seconds, n) for work, n in self._waiting.items() if n]
        beside = self._spent / self._counted if self._counted else 1.0
        going = [self._rest(run, beside, now) for run in self._going.values()]
        total = sum(seconds * n for seconds, n in waiting) * beside + sum(going)
        longest = max([*(seconds * beside for seconds, _ in waiting), *going], default=0.0)
        return max(total / self._workers, longest)

    def _rest(self, run: _Going, beside: float, now: float) -> float:
        """Seconds that a run still takes."""
        elapsed = now - run.began
        seconds = self._forecast.expect(run.work).seconds * beside
        if run.pace:
            seconds = run.last[1] - run.began + run.pace * (run.of - run.last[0])
        return max(seconds - elapsed, _BEYOND * elapsed)
