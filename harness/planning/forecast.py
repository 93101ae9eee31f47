"""How many seconds a run takes and how much memory it needs: the one place that predicts either.

What a run has to do is counted: images that pass through its networks, in training and after it. The seconds
that an image takes come from the records nearest to the run, the newest first: of the same method, backbone,
length of training and image size; where there are none, of the same method, then of any. Only the first kind
is a prediction to tell people (``measured``). The others, and without any record the count alone, still say
which runs are long and which are short.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from harness.common.defaults import TRAINING_LENGTHS
from harness.registry.names import parse_name
from harness.results.store import order_of
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord
from harness.spec.run import RunSpec

# Hyper-parameters that say how much a training has to do.
_WORK = (*TRAINING_LENGTHS, "batch_size", "width")
# Of the records nearest to a run so many count.
_NEAREST = 5
# Of the records of one kind so many are kept.
_KEPT = 100
# Seconds that an image of 256 px takes forward through a network, where nothing has been measured.
_FORWARD = 0.01
# A step of training is forward and backward.
_TRAINING = 3


class WorkKind(NamedTuple):
    """What the costs of a run depend on, but for the number of its images.

    Attributes:
        method: the method without hyper-parameters.
        settings: its backbone, and the hyper-parameters that say how long a training is.
        image_size: side of the images in pixels.
        evaluate: where pixel metrics are computed.
        watches: whether the test set is scored after every epoch.
    """

    method: str
    settings: tuple[tuple[str, str], ...]
    image_size: int
    evaluate: str
    watches: bool


class Workload(NamedTuple):
    """What a run has to do; runs that differ by their seeds have the same.

    Attributes:
        kind: of which kind it is.
        train: number of training images, 0 where not known.
        test: number of test images, 0 where not known.
    """

    kind: WorkKind
    train: int
    test: int


class Expected(NamedTuple):
    """What is expected of a run.

    Attributes:
        seconds: from loading its images to its scores.
        memory: bytes at the peak, of the GPU where there is one, else of the host; ``None`` where not
            measured.
        measured: whether records of the same kind say so.
    """

    seconds: float
    memory: float | None
    measured: bool


class _Sample(NamedTuple):
    """What a record says of its costs."""

    work: Workload
    fit: float
    rest: float
    memory: float
    machine: str


class Forecast:
    """Predicts by records, and learns from further ones.

    Args:
        records: earlier runs, in any order. Those of the machine of the newest one count before others'.
    """

    def __init__(self, records: Iterable[RunRecord] = ()) -> None:
        self._machine = ""
        self._samples: dict[WorkKind, list[_Sample]] = {}
        self._known: dict[WorkKind, dict[Workload, Expected]] = {}
        for record in sorted(records, key=order_of):
            self.learn(record)

    def __bool__(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._samples)

    def learn(self, record: RunRecord) -> None:
        """Takes a record as the newest; one without timings says nothing."""
        if record.timings is None:
            return
        counts, spent = record.counts, record.timings
        done = counts.get("train", 0), counts.get("test", 0)
        work = workload_of(record.spec, record.identity.config, *done)
        memory = record.peak_memory.get("device", record.peak_memory.get("host", 0))
        sample = _Sample(work, spent.fit, spent.total - spent.fit, memory, machine_of(record))
        if work.kind not in self._samples or sample.machine != self._machine:
            self._known.clear()
        self._machine = sample.machine
        samples = self._samples.setdefault(work.kind, [])
        samples.insert(0, sample)
        del samples[_KEPT:]
        self._known.pop(work.kind, None)

    def expect(self, work: Workload) -> Expected:
        """Returns what is expected of a run."""
        known = self._known.setdefault(work.kind, {})
        if work not in known:
            known[work] = self._expected(work)
        return known[work]

    def _expected(self, work: Workload) -> Expected:
        same = self._samples.get(work.kind, [])
        near = _nearest(same or self._like(work.kind), work, self._machine)
        fit, rest = _counted(work)
        if not near:
            return Expected(fit + rest, None, measured=False)
        shares = [(sample, *_counted(_filled(sample.work, work))) for sample in near]
        seconds = fit * median(sample.fit / own for sample, own, _ in shares)
        seconds += rest * median(sample.rest / own for sample, _, own in shares)
        # What a method keeps of its training images grows with them; what it keeps of networks does not.
        grown = [s.memory * max(1.0, work.train / _filled(s.work, work).train) for s in near if s.memory]
        return Expected(seconds, max(grown) if same and grown else None, measured=bool(same))

    def _like(self, kind: WorkKind) -> list[_Sample]:
        """The newest of each other kind of the method, or of any."""
        newest = {other: samples[0] for other, samples in self._samples.items()}
        return [s for other, s in newest.items() if other.method == kind.method] or list(newest.values())


def _nearest(samples: list[_Sample], work: Workload, machine: str) -> list[_Sample]:
    """The samples of about as many training images, the newest first, of one machine where it has any."""
    own = [sample for sample in samples if sample.machine == machine] or samples

    def octaves(sample: _Sample) -> int:
        return round(abs(math.log2(_filled(sample.work, work).train / max(work.train, 1))))

    return sorted(own, key=octaves)[:_NEAREST]


def _filled(sample: Workload, work: Workload) -> Workload:
    """A record's numbers of images, where it has none as if they were the run's."""
    return sample._replace(
        train=sample.train or max(work.train, 1),
        test=sample.test or max(work.test, 1),
    )


def _counted(work: Workload) -> tuple[float, float]:
    """Seconds of training and of the rest, counted in images that pass through networks."""
    kind, train, test = work.kind, max(work.train, 1), max(work.test, 1)
    epochs = _number(kind, "epochs", 0) * _number(kind, "sub_epochs", 1)
    steps = _number(kind, "steps", 0) * _number(kind, "batch_size", 1)
    # A training ends with the first of both.
    lengths = [length for length in (epochs * train, steps) if length]
    second = _FORWARD * (kind.image_size / 256) ** 2
    looks = max(_number(kind, "epochs", 1), 1) if kind.watches else 1
    return second * (train + _TRAINING * min(lengths, default=0)), second * test * looks


def _number(kind: WorkKind, name: str, default: float) -> float:
    # Hyper-parameters of others' methods may be anything.
    value = dict(kind.settings).get(name, "")
    return float(value) if value.isdecimal() else default


def workload_of(spec: RunSpec, config: Mapping[str, Any], train: int, test: int) -> Workload:
    """Returns what a run has to do.

    Args:
        spec: the run.
        config: its hyper-parameters, defaults included.
        train: number of training images, 0 where not known.
        test: number of test images, 0 where not known.
    """
    names = ("backbone", *_WORK)
    settings = tuple((name, str(config[name])) for name in names if config.get(name) is not None)
    protocol = PROTOCOLS.get(spec.protocol)
    watches = protocol is not None and protocol.watches_test
    kind = WorkKind(_short(spec.method), settings, spec.image_size, spec.evaluate, watches)
    return Workload(kind, train, test)


@lru_cache(maxsize=10_000)
def _short(method: str) -> str:
    return parse_name(method).short()


def machine_of(record: RunRecord) -> str:
    """Returns the name of the GPU, or else of the processor, that a record was made on."""
    found = record.environment
    return str(found.get("gpu") or found.get("cpu") or "unknown machine")
