"""What a run is, and what came of it: frozen, validated, versioned values.

A :class:`RunSpec` says *this method, on this category, with this seed, under this protocol*. A
:class:`RunRecord` is its outcome, one JSON file. Both are read by machines years later, so fields are
only ever added, and ``SCHEMA_VERSION`` is raised when their meaning changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from harness.common.values import Frozen
from harness.spec.efficiency import Efficiency
from harness.spec.fingerprints import Fingerprint
from harness.spec.names import digest
from harness.spec.operating_points import Operating
from harness.spec.run import Identity, RunSpec

SCHEMA_VERSION = 1
# The split of a record that holds the mean over the kinds of anomalies.
KINDS_MEAN = "kinds_mean"

Outcome = Literal["ok", "failed", "out_of_memory", "timeout"]


class EpochLog(Frozen):
    """One epoch: its training losses and, where the protocol looks at the test set, the image AUROC there."""

    number: int
    losses: dict[str, float] = Field(default_factory=dict)
    test_image_auroc: float | None = None


class Timings(Frozen):
    """Wall-clock seconds of a run's parts, and what follows from them; 0 where nothing was measured.

    Attributes:
        load: reading images and masks (from the cache, or decoding them the first time).
        fit: training, without the evaluation of epochs.
        predict: scoring all test images once, in batches, device work finished.
        evaluate: metrics, and the evaluation of epochs where the protocol asks for it.
        images_per_second: test images / ``predict``.
    """

    load: float
    fit: float
    predict: float
    evaluate: float
    images_per_second: float

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return self.load + self.fit + self.predict + self.evaluate

    @property
    def fitted(self) -> float | None:
        """Seconds of training, ``None`` where nothing was measured."""
        return self.fit or None

    @property
    def speed(self) -> float | None:
        """Images per second, ``None`` where nothing was measured."""
        return self.images_per_second if self.predict else None


class Failure(Frozen):
    """Why a run has no numbers: one line for tables, the traceback for whoever mends it."""

    message: str
    traceback: str = ""

    @property
    def headline(self) -> str:
        """The message's first line."""
        return (self.message.splitlines() or [""])[0]


class RunRecord(Frozen):
    """What came of one run. Scores lie in [0, 1]; an undefined metric is ``null``.

    Attributes:
        schema_version: of this structure, see ``SCHEMA_VERSION``.
        key: 16 hexadecimal digits over everything that decides the numbers, the name of the file.
        spec: the run.
        identity: what else decides its numbers.
        fingerprint: with which other numbers these may be ranked.
        outcome: ``ok``, or why there are no metrics.
        failure: its reason and traceback, ``None`` where the outcome is ``ok``.
        metrics: ``{split: {metric: value}}``; split ``all``, and one per anomaly kind; where there is sPRO
            also ``kinds_mean``, its mean over the kinds.
        metrics_last: under ``paper``, the same for the last epoch instead of the selected one.
        selected_epoch: the epoch that counted, ``None`` where there are no epochs.
        epochs: of each epoch the training losses, and what was seen of the test set.
        resumed: after which epochs an interrupted training was gone on with; peak memory is that of the
            last process alone.
        categories: every category of the dataset, so that a table knows when a mean is complete.
        split_categories: for each anomaly kind, the categories that have it, where not all have.
        counts: images used: ``train``, ``validation``, ``test`` and test images by kind; ``moved`` of the
            training images are anomalous ones from the test set; ``unscored`` are the test images that the
            protocol leaves out, 0 or more where it drops incomplete batches.
        timings: seconds of the parts, ``None`` where the run failed.
        peak_memory: bytes: ``host`` above the idle worker, ``device`` as the allocator saw it.
        efficiency: speed, memory and size as docs/efficiency.md defines them, measured after the scores.
        choices: how the method went about it on this machine, see ``Setup.choices``.
        operating: thresholds from normal validation images and what they do on the test set.
        environment: hardware, versions, git commit.
        citation: BibTeX entry of the method.
        remarks: what the method says that a reader must know about these numbers, see ``Method.remarks``.
        suite: what the suite that the run was made for says of itself.
        finished: UTC time, ISO 8601.
        order: number by which the newest is told, see ``harness.results.sequence``; 0 in records from before.
        rescored: when ``metrics`` were last computed again from kept maps, empty if never.
        checksum: over everything else, as it was written; empty in records from before there was one.
        made_from: key of the run whose kept parts this record was made from, without a training of its own;
            empty for a run.
        command: the command line, without secrets; see ``harness.cli.command_line``. Empty in records from
            before.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    spec: RunSpec
    identity: Identity
    fingerprint: Fingerprint
    outcome: Outcome
    failure: Failure | None = None
    metrics: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    metrics_last: dict[str, dict[str, float | None]] | None = None
    selected_epoch: int | None = None
    epochs: list[EpochLog] = Field(default_factory=list)
    resumed: list[int] = Field(default_factory=list)
    categories: list[str] = Field(default_factory=list)
    split_categories: dict[str, list[str]] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    timings: Timings | None = None
    peak_memory: dict[str, int] = Field(default_factory=dict)
    efficiency: Efficiency | None = None
    choices: dict[str, str] = Field(default_factory=dict)
    operating: Operating | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    citation: str = ""
    remarks: list[str] = Field(default_factory=list)
    suite: str = ""
    finished: str = ""
    order: int = Field(default=0, ge=0, lt=2**62)
    rescored: str = ""
    checksum: str = ""
    made_from: str = ""
    command: str = ""


def checksum(content: Mapping[str, Any]) -> str:
    """Returns what :attr:`RunRecord.checksum` must be for a record's content, as read from its JSON.

    Over the JSON, not over the value: a later version that knows more fields gets the same.
    """
    return digest({name: value for name, value in content.items() if name != "checksum"})
