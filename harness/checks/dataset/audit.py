"""The audit of a dataset: what was found, in words, with the pictures that show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.checks.dataset.duplicates import duplicates
from harness.checks.dataset.image_features import Look, look_at_all
from harness.checks.dataset.masks import mask_faults, masks_of_normals
from harness.checks.dataset.shifts import ANOMALOUS, Shift, shifts, unseen_sizes
from harness.common.errors import UserError
from harness.common.parallel import in_threads
from harness.common.text import plain
from harness.data.card import NORMAL, Card, dataset_root
from harness.data.samples import CategoryData, Sample, category_names, scan_category

AuditKind = Literal["duplicate", "mask", "shift"]


@dataclass(frozen=True)
class Picture:
    """An image that shows a finding, with the masks whose outline is drawn."""

    image: Path
    name: str
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AuditFinding:
    """Something that a person should look at.

    Attributes:
        kind: what it is about.
        message: one sentence.
        pictures: what to look at.
    """

    kind: AuditKind
    message: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Audited:
    """One category.

    Attributes:
        counts: images by group: training, validation, normal test, anomalous test.
        brightness: mean grey values by group, for the chart.
        shifts: everything that was compared, large or not.
        findings: what looks wrong.
    """

    dataset: str
    category: str
    counts: dict[str, int]
    brightness: dict[str, tuple[float, ...]]
    shifts: tuple[Shift, ...]
    findings: tuple[AuditFinding, ...]

    def count(self, kind: AuditKind) -> int:
        """Returns how many findings of a kind there are."""
        return sum(finding.kind == kind for finding in self.findings)


def audit_dataset(
    card: Card, categories: Sequence[str] | None, data_root: Path | None, cache: Path, most: float
) -> Iterator[Audited]:
    """Audits categories one by one.

    Args:
        card: of the dataset.
        categories: what to look at; ``None`` is every category that is on disk.
        data_root: the folder that holds the datasets.
        cache: the cache folder.
        most: percent of an image from which a mask is suspiciously large.

    Raises:
        UserError: there is nothing to look at, or a file cannot be read.
    """
    root = dataset_root(card, data_root, cache)
    names = categories
    if names is None:
        known = category_names(card, root)
        names = [name for name in known if (root / name).is_dir()] or known
    for name in names:
        data = scan_category(card, name, root)
        if not data.train and not data.test:
            raise UserError(
                f"Category '{name}' in {root} has no image: `bench data check` says what is missing."
            )
        yield _audit(card, name, root, data, most)


def _audit(card: Card, category: str, root: Path, data: CategoryData, most: float) -> Audited:
    train, validation, test = (look_at_all(part) for part in (data.train, data.validation, data.test))
    groups = {
        "training": train,
        "validation": validation,
        "normal test": [look for look in test if look.sample.kind == NORMAL],
        ANOMALOUS: [look for look in test if look.sample.kind != NORMAL],
    }
    pairs = (("training", "validation"), ("training", "normal test"), ("normal test", ANOMALOUS))
    compared = [s for a, b in pairs for s in shifts((a, groups[a]), (b, groups[b]))]
    findings = [
        *_duplicates(train, validation, test, root),
        *_masks(card, category, root, data.test, most),
        *(_shift(s, groups, root) for s in compared if s.large),
        *_sizes(groups, root),
    ]
    return Audited(
        dataset=card.name,
        category=category,
        counts={name: len(looks) for name, looks in groups.items()},
        brightness={name: tuple(look.brightness for look in looks) for name, looks in groups.items()},
        shifts=tuple(compared),
        findings=tuple(findings),
    )


def _duplicates(
    train: Sequence[Look], validation: Sequence[Look], test: Sequence[Look], root: Path
) -> Iterator[AuditFinding]:
    if not train:
        return
    usual = np.mean([look.detail for look in train], axis=0)
    for words, one, other in (
        ("test image {} is nearly the training image {}", test, train),
        ("test image {} is nearly the validation image {}", test, validation),
        ("validation image {} is nearly the training image {}", validation, train),
        ("training image {} is nearly the training image {}", train, train),
    ):
        for at, like, bits, alike in duplicates(one, other, usual):
            pictures = tuple(_picture(look.sample, root) for look in (one[at], other[like]))
            same = f"hashes differ in {bits} of 63 bits, details correlate at {alike:.3f}"
            message = f"{words.format(*(picture.name for picture in pictures))} ({same})"
            yield AuditFinding("duplicate", message, pictures)


def _masks(
    card: Card, category: str, root: Path, samples: Sequence[Sample], most: float
) -> Iterator[AuditFinding]:
    def look(sample: Sample) -> list[AuditFinding]:
        if sample.kind != NORMAL:
            picture = _picture(sample, root)
            return [
                AuditFinding("mask", f"{picture.name} {fault}", (picture,))
                for fault in mask_faults(sample, most)
            ]
        if masks := masks_of_normals(card, category, root, sample):
            picture = _picture(sample, root, masks)
            message = f"{picture.name} is normal, but has a mask that marks something"
            return [AuditFinding("mask", message, (picture,))]
        return []

    for found in in_threads(look, samples):
        yield from found


def _shift(shift: Shift, groups: dict[str, list[Look]], root: Path) -> AuditFinding:
    """Shows of each group the image in its middle."""
    pictures = []
    for name in (shift.before, shift.after):
        ordered = sorted(groups[name], key=lambda look: getattr(look, shift.what))
        pictures.append(_picture(ordered[len(ordered) // 2].sample, root))
    return AuditFinding("shift", str(shift), tuple(pictures))


def _sizes(groups: dict[str, list[Look]], root: Path) -> Iterator[AuditFinding]:
    for name in ("validation", "normal test", ANOMALOUS):
        if message := unseen_sizes(groups["training"], name, groups[name]):
            pictures = tuple(_picture(groups[which][0].sample, root) for which in ("training", name))
            yield AuditFinding("shift", message, pictures)


def _picture(sample: Sample, root: Path, masks: tuple[Path, ...] | None = None) -> Picture:
    inside = sample.image.relative_to(root) if sample.image.is_relative_to(root) else sample.image
    return Picture(sample.image, plain(inside.as_posix()), sample.masks if masks is None else masks)
