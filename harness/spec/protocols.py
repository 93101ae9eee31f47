"""Protocols: named ways of evaluating, each frozen and recorded; leaderboards never mix two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.common.values import Frozen

Resize = Literal["antialiased", "opencv"]
Crop = Literal["none", "centre"]
IncompleteBatches = Literal["kept", "dropped"]
# What a centre crop leaves of each side: images come to size / CROPPED, and the middle is cut out.
CROPPED = 0.875
# Epochs without a better test image AUROC after which a training ends, where a protocol stops early.
PATIENCE = 10
# Images of a batch in which ULSAD's published code validates and tests: ``eval_batch_size`` in its settings.
PUBLISHED_BATCH = 32


@dataclass(frozen=True)
class ImageFit:
    """How images and masks come to the size of a run.

    Attributes:
        size: side of the square images in pixels.
        resize: see :class:`Protocol`; it does not concern masks.
        crop: see :class:`Protocol`.
    """

    size: int
    resize: Resize = "antialiased"
    crop: Crop = "none"

    @property
    def side(self) -> int:
        """The side that an image comes to before its middle is cut out."""
        return self.size if self.crop == "none" else round(self.size / CROPPED)

    @property
    def view(self) -> str:
        """How images come to their size, as a part of file names: ``opencv``, ``antialiased-centre``."""
        return view(self.resize, self.crop)


def view(resize: str, crop: str) -> str:
    """Returns in a word how images come to their size: ``opencv``, ``antialiased-centre``."""
    return resize if crop == "none" else f"{resize}-{crop}"


class Protocol(Frozen):
    """A named way of evaluating.

    Attributes:
        name: what users type.
        resize: ``antialiased`` (Pillow bilinear with support scaled to the reduction) or ``opencv``
            (bilinear without antialiasing, as the published ULSAD numbers).
        crop: ``none``, or ``centre``: images and masks come to size / 0.875 and their middle is cut out, so
            that what lies at the border is neither seen nor evaluated.
        mask_resize: how masks come to the evaluation resolution.
        validation: where normal validation images come from: ``held_out`` is the dataset's own
            validation split or else a seeded tenth of the training images; ``test_normals`` are the
            normal test images.
        selection: which epoch counts: ``last``, or ``best_test_image_auroc`` (selects on test data).
        stopping: ``none``, or ``test_image_auroc``: training ends after ten epochs without a better one.
        incomplete_batches: ``kept``, or ``dropped``: of each training epoch what fills no batch, and of the
            test images, in the order of their paths, the last ones that fill no batch of 32, which are then
            neither scored nor validated on (``drop_last=True`` in the loaders of ULSAD's published code,
            ``anomalib/data/base/datamodule.py`` at commit c75e169).
        about: one sentence for people.
    """

    name: str
    resize: Resize = "antialiased"
    crop: Crop = "none"
    mask_resize: Literal["nearest"] = "nearest"
    validation: Literal["held_out", "test_normals"] = "held_out"
    selection: Literal["last", "best_test_image_auroc"] = "last"
    stopping: Literal["none", "test_image_auroc"] = "none"
    incomplete_batches: IncompleteBatches = "kept"
    about: str

    @property
    def badge(self) -> str:
        """What test images decide beyond being scored, in a few words; empty where they decide nothing."""
        if self.selection != "last":
            return "selects on test data"
        if self.stopping != "none":
            return "stops on test data"
        return "statistics from test data" if self.validation == "test_normals" else ""

    @property
    def uses_test_data(self) -> bool:
        """Whether test images influence what is reported, beyond being scored."""
        return bool(self.badge)

    @property
    def watches_test(self) -> bool:
        """Whether the test images are scored after every epoch."""
        return self.selection != "last" or self.stopping != "none"


def unfilled(images: int) -> int:
    """Returns how many of so many test images, the last ones, fill no batch of :data:`PUBLISHED_BATCH`."""
    return images % PUBLISHED_BATCH


PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="strict",
            about="The test set is touched once, after training; the last epoch counts.",
        ),
        Protocol(
            name="paper",
            resize="opencv",
            validation="test_normals",
            selection="best_test_image_auroc",
            incomplete_batches="dropped",
            about="What the published code of ULSAD does: the test set is also the validation set, the epoch "
            "with the best test image AUROC counts, and incomplete batches are dropped: the last test images "
            f"that fill no batch of {PUBLISHED_BATCH} are not scored.",
        ),
        # Each of these is `strict` but for one thing: the suite `leak` measures what it is worth.
        Protocol(
            name="test-epoch",
            selection="best_test_image_auroc",
            about="As strict, but the epoch with the best test image AUROC counts: it selects on test data.",
        ),
        Protocol(
            name="test-statistics",
            validation="test_normals",
            about="As strict, but the normal test images are the validation images, and where the dataset "
            "has none of its own, no training image is held out for them: it uses test data.",
        ),
        Protocol(
            name="early-stop",
            stopping="test_image_auroc",
            about=f"As strict, but training ends after {PATIENCE} epochs without a better test image AUROC: "
            "it uses test data. The last epoch trained counts.",
        ),
        Protocol(
            name="opencv-resize",
            resize="opencv",
            about="As strict, but images are resized by OpenCV without antialiasing. It uses no test data.",
        ),
        Protocol(
            name="centre-crop",
            crop="centre",
            about="As strict, but of each image and mask only the middle seven eighths of each side are seen "
            "and evaluated. It uses no test data, but hides defects at the border.",
        ),
        Protocol(
            name="drop-last",
            incomplete_batches="dropped",
            about="As strict, but incomplete batches are dropped: an epoch trains on full batches alone, and "
            f"the last test images that fill no batch of {PUBLISHED_BATCH} are not scored. It uses no test "
            "data.",
        ),
    )
}
