"""What a run is: its specification, what else decides its numbers, and its key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from harness.common.values import Frozen, at_defaults
from harness.spec.names import canonical, short_digest
from harness.spec.protocols import PROTOCOLS, ImageFit, IncompleteBatches

Scalar = bool | int | float | str | None
Evaluate = Literal["input", "native"]
Keep = Literal["maps", "weights", "parts"]
# Fields that came later are left out at their defaults, so that earlier keys and fingerprints stay.
_LATER = {"evaluate": "input", "contamination": 0.0}
_LATER_IDENTITY = {"defects": "", "incomplete_batches": "kept"}


Value = Scalar | list[Scalar]


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

    @property
    def fit(self) -> ImageFit:
        """How its images come to their size."""
        protocol = PROTOCOLS[self.protocol]
        return ImageFit(self.image_size, protocol.resize, protocol.crop)

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


def run_key(spec: RunSpec, identity: Identity) -> str:
    """Returns the name of a run's record: 16 hexadecimal digits over everything that decides its numbers."""
    return run_keys(spec, [spec.seed], identity)[0]


def run_keys(spec: RunSpec, seeds: Iterable[int], identity: Identity) -> list[str]:
    """Returns :func:`run_key` of a run with each of the seeds; all else is put into words once."""
    setup = spec.model_dump(mode="json", exclude=at_defaults(spec, _LATER))
    found = canonical(identity.model_dump(mode="json", exclude=at_defaults(identity, _LATER_IDENTITY)))
    before = "".join(f'"{name}":{canonical(setup[name])},' for name in sorted(setup) if name < "seed")
    after = "".join(f',"{name}":{canonical(setup[name])}' for name in sorted(setup) if name > "seed")
    head = f'{{"identity":{found},"spec":{{{before}"seed":'
    return [short_digest(f"{head}{seed}{after}}}}}") for seed in seeds]
