"""What a run is, and what came of it: frozen, validated, versioned values.

A :class:`RunSpec` says *this method, on this category, with this seed, under this protocol*. A
:class:`RunRecord` is its outcome, one JSON file. Both are read by machines years later, so fields are
only ever added, and ``SCHEMA_VERSION`` is raised when their meaning changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.efficiency import Efficiency
from harness.efficiency import Quantity as Quantity
from harness.frozen import Frozen as Frozen
from harness.names import canonical, digest, short
from harness.names import slug as slug
from harness.operating import Operating as Operating
from harness.operating import Rate as Rate
from harness.protocols import PROTOCOLS as PROTOCOLS
from harness.protocols import IncompleteBatches as IncompleteBatches
from harness.protocols import Protocol as Protocol
from harness.protocols import unfilled as unfilled

SCHEMA_VERSION = 1
# The split of a record that holds the mean over the kinds of anomalies.
KINDS_MEAN = "kinds_mean"

Outcome = Literal["ok", "failed", "out_of_memory", "timeout"]
Scalar = bool | int | float | str | None
Value = Scalar | list[Scalar]
Evaluate = Literal["input", "native"]
Keep = Literal["maps", "weights", "parts"]


class RunSpec(Frozen):
    """One run: a method on one category of one dataset, with one seed, under one protocol.

    Attributes:
        dataset: identifier of the dataset card.
        category: category of the dataset.
        method: the name as typed, e.g. ``ulsad`` or ``ulsad[lambda_l=0]``, in canonical form.
        params: hyper-parameters that differ from the method's defaults, from wherever they came.
        seed: seed of everything random.
        protocol: name of the protocol.
        image_size: side of the square images in pixels.
        limit_train: at most this many training images; ``None`` for all.
        backbone_weights: ``pretrained``, or ``none`` for random weights.
        evaluate: where pixel metrics are computed: at the size of the ``input``, or of the ``native`` masks.
        contamination: share of anomalous images among the training images; they are moved there from the
            test set, drawn by the seed.
    """

    dataset: str
    category: str
    method: str
    params: dict[str, Value] = Field(default_factory=dict)
    seed: int = Field(ge=0, lt=2**31)
    protocol: str = "strict"
    image_size: int = Field(default=256, ge=32, le=4096)
    limit_train: int | None = Field(default=None, ge=1)
    backbone_weights: Literal["pretrained", "none"] = "pretrained"
    evaluate: Evaluate = "input"
    contamination: float = Field(default=0.0, ge=0, lt=0.5)

    def label(self) -> str:
        """A short name for people: ``mpdd/metal_plate · ulsad · seed 0 · strict``."""
        rest = " · native" if self.evaluate == "native" else ""
        rest += f" · {100 * self.contamination:g} % anomalous" if self.contamination else ""
        return f"{self.dataset}/{self.category} · {self.method} · seed {self.seed} · {self.protocol}{rest}"


class Identity(Frozen):
    """What else decides a run's numbers, found out before it starts.

    Attributes:
        method_version: the integer its author raises when results change.
        config: every hyper-parameter, defaults included.
        weights: SHA-256 of the pretrained weights by backbone name (``random`` for none), and of what assets
            hold as ``asset:<name>``.
        data: fingerprint of the category's files.
        score_rule: how the method turns a map into an image score.
        source: SHA-256 of a private method's file, empty for an installed method.
        defects: SHA-256 of the category's table of defects, where the run is evaluated by it.
        incomplete_batches: what the protocol does with them; early records of ``paper`` have them ``kept``.
    """

    method_version: int
    config: dict[str, Any]
    weights: dict[str, str]
    data: str
    score_rule: str
    source: str = ""
    defects: str = ""
    incomplete_batches: IncompleteBatches = "kept"


# Fields that came later are left out at their defaults, so that earlier keys and fingerprints stay.
_LATER = {"evaluate": "input", "contamination": 0.0}
_LATER_IDENTITY = {"defects": "", "incomplete_batches": "kept"}
_LATER_SHARED = {"stopping": "none", "contamination": 0.0, "incomplete_batches": "kept"}


def run_key(spec: RunSpec, identity: Identity) -> str:
    """Returns the name of a run's record: 16 hexadecimal digits over everything that decides its numbers."""
    return run_keys(spec, [spec.seed], identity)[0]


def run_keys(spec: RunSpec, seeds: Iterable[int], identity: Identity) -> list[str]:
    """Returns :func:`run_key` of a run with each of the seeds; all else is put into words once."""
    setup = spec.model_dump(mode="json", exclude=_plain(spec, _LATER))
    found = canonical(identity.model_dump(mode="json", exclude=_plain(identity, _LATER_IDENTITY)))
    before = "".join(f'"{name}":{canonical(setup[name])},' for name in sorted(setup) if name < "seed")
    after = "".join(f',"{name}":{canonical(setup[name])}' for name in sorted(setup) if name > "seed")
    head = f'{{"identity":{found},"spec":{{{before}"seed":'
    return [short(f"{head}{seed}{after}}}}}") for seed in seeds]


def _plain(value: Frozen, later: Mapping[str, Any]) -> set[str]:
    """The fields that came later and have their defaults."""
    return {name for name, default in later.items() if getattr(value, name) == default}


class Fingerprint(Frozen):
    """Which numbers may stand in one ranking: every field must agree, see :meth:`short`.

    ``weights`` is compared by backbone: methods with different backbones may be ranked together, two
    different sets of weights under one backbone's name may not (``reports.leaderboard`` holds that).
    ``score_rule`` is the method's own business and differs between methods of one ranking; a method that
    changes it raises its version.

    Attributes:
        protocol: name of the protocol, which decides what follows.
        image_size: side of the square images in pixels.
        resize: how images come to their size.
        crop: what of them is cut away.
        mask_resize: how masks come to the resolution of the evaluation; ``none`` for masks at their own size.
        evaluation_resolution: where pixel metrics are computed: ``256x256``, or ``native``.
        validation: where normal validation images come from.
        selection: which epoch counts.
        score_rule: how the method turns a map into an image score.
        weights: SHA-256 of the pretrained weights by backbone, and of assets.
        training_images: ``all``, or ``at most`` so many.
        metrics_version: raised when the definition of a metric changes.
        backbone_weights: ``pretrained``, or ``none`` for random ones.
        stopping: what may end a training before its last epoch.
        contamination: share of anomalous images among the training images.
        incomplete_batches: ``kept``, or ``dropped`` in training and of the test images.
    """

    protocol: str
    image_size: int
    resize: str
    crop: str
    mask_resize: str
    evaluation_resolution: str
    validation: str
    selection: str
    score_rule: str
    weights: dict[str, str]
    training_images: str
    metrics_version: int
    backbone_weights: str = "pretrained"
    stopping: str = "none"
    contamination: float = 0.0
    incomplete_batches: IncompleteBatches = "kept"

    @property
    def view(self) -> str:
        """How images come to their size, as a part of file names."""
        return view(self.resize, self.crop)

    def shared(self) -> dict[str, Any]:
        """Returns what all methods of one ranking must share, as JSON values."""
        left_out = {"weights", "score_rule", *_plain(self, _LATER_SHARED)}
        return self.model_dump(mode="json", exclude=left_out)

    def short(self) -> str:
        """Returns ``strict-256-1a2b3c4d``: protocol, image size and a digest of what methods must share."""
        return f"{self.protocol}-{self.image_size}-{digest(self.shared())[:8]}"


def fingerprint(spec: RunSpec, identity: Identity, metrics_version: int) -> Fingerprint:
    """Returns the protocol fingerprint of a run."""
    protocol = PROTOCOLS[spec.protocol]
    native = spec.evaluate == "native"
    return Fingerprint(
        protocol=protocol.name,
        image_size=spec.image_size,
        resize=protocol.resize,
        crop=protocol.crop,
        mask_resize="none" if native else protocol.mask_resize,
        evaluation_resolution="native" if native else f"{spec.image_size}x{spec.image_size}",
        validation=protocol.validation,
        selection=protocol.selection,
        score_rule=identity.score_rule,
        weights=identity.weights,
        training_images="all" if spec.limit_train is None else f"at most {spec.limit_train}",
        metrics_version=metrics_version,
        backbone_weights=spec.backbone_weights,
        stopping=protocol.stopping,
        contamination=spec.contamination,
        incomplete_batches=identity.incomplete_batches,
    )


def view(resize: str, crop: str) -> str:
    """Returns in a word how images come to their size: ``opencv``, ``antialiased-centre``."""
    return resize if crop == "none" else f"{resize}-{crop}"


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
        order: number by which the newest is told, see ``harness.sequence``; 0 in records from before.
        rescored: when ``metrics`` were last computed again from kept maps, empty if never.
        checksum: over everything else, as it was written; empty in records from before there was one.
        made_from: key of the run whose kept parts this record was made from, without a training of its own;
            empty for a run.
        command: the command line, without secrets; see ``harness.provenance``. Empty in records from before.
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


class Suite(Frozen):
    """A named set of runs, kept as a TOML file.

    Attributes:
        title: one line for people.
        about: what the suite shows, and what it leaves out; printed on the page.
        methods: method names, parameters allowed.
        datasets: dataset names or paths of cards.
        categories: only these categories; empty for all of each dataset.
        seeds: seeds of the runs.
        protocols: names of the protocols.
        image_size: side of the images.
        backbone: backbone for every method that has one; empty for each method's own.
        evaluate: see :class:`RunSpec`.
        keep: artefacts to leave beside the records: ``maps``, ``weights``, ``parts``.
        measure: seconds that measuring the efficiency of a run may take; without one, 2 % of the run's own.
        set: ``{method: {parameter: value}}``.
        contamination: shares of anomalous images among the training images.
        grid: ``{method: {parameter: [values]}}`` of post-processing: every combination gets a record from the
            kept parts of one run; nothing more is trained.
    """

    title: str
    about: str = ""
    methods: list[str]
    datasets: list[str]
    categories: list[str] = Field(default_factory=list)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default_factory=lambda: [0])
    protocols: list[str] = Field(default_factory=lambda: ["strict"])
    image_size: int = 256
    backbone: str = ""
    evaluate: Evaluate = "input"
    keep: list[Keep] = Field(default_factory=list)
    measure: float | None = Field(default=None, ge=0)
    set: dict[str, dict[str, Value]] = Field(default_factory=dict)
    contamination: list[Annotated[float, Field(ge=0, lt=0.5)]] = Field(default_factory=lambda: [0.0])
    grid: dict[str, dict[str, list[Scalar]]] = Field(default_factory=dict)


def checksum(content: Mapping[str, Any]) -> str:
    """Returns what :attr:`RunRecord.checksum` must be for a record's content, as read from its JSON.

    Over the JSON, not over the value: a later version that knows more fields gets the same.
    """
    return digest({name: value for name, value in content.items() if name != "checksum"})
