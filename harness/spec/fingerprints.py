"""Which numbers may stand in one ranking."""

from __future__ import annotations

from typing import Any

from harness.common.values import Frozen, at_defaults
from harness.spec.names import digest
from harness.spec.protocols import PROTOCOLS, IncompleteBatches, view
from harness.spec.run import Identity, RunSpec

_LATER_SHARED = {"stopping": "none", "contamination": 0.0, "incomplete_batches": "kept"}


class Fingerprint(Frozen):
    """Which numbers may stand in one ranking: every field must agree, see :meth:`short`.

    ``weights`` is compared by backbone: methods with different backbones may be ranked together, two
    different sets of weights under one backbone's name may not (``reports.rankings.leaderboard`` holds that).
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
        left_out = {"weights", "score_rule", *at_defaults(self, _LATER_SHARED)}
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
