"""Which test images protocols leave out that drop incomplete batches, before any run and without the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.common.errors import UserError
from harness.data.card import Card, dataset_names, dataset_root, load_card
from harness.data.samples import category_names, scan_category
from harness.spec.protocols import PROTOCOLS, PUBLISHED_BATCH, unfilled
from harness.spec.suite import Suite


@dataclass(frozen=True)
class Tested:
    """The test images of a category.

    Attributes:
        images: how many there are.
        official: whether that is the card's count, the files not being there.
    """

    dataset: str
    category: str
    images: int
    official: bool = False

    @property
    def unscored(self) -> int:
        """How many of them fill no batch."""
        return unfilled(self.images)


def official_counts(names: Sequence[str] = ("all",)) -> dict[str, dict[str, int]]:
    """Returns how many test images there officially are by dataset and category; the demo is none."""
    cards = [load_card(name) for name in dataset_names(names)]
    return {c.name: {one.name: sum(one.test.values()) for one in c.categories if one.test} for c in cards}


def tested(suite: Suite, data_root: Path | None, cache: Path) -> list[Tested]:
    """Returns the test images of a suite's categories: by their files, else by the cards' official counts.

    A category that has neither is left out.

    Raises:
        UserError: a card cannot be read.
    """
    found = []
    for card in map(load_card, dataset_names(suite.datasets)):
        root = _root(card, data_root, cache)
        for name in category_names(card, root) if root else [category.name for category in card.categories]:
            if suite.categories and not {name, f"{card.name}/{name}"} & {*suite.categories}:
                continue
            there, counts = _on_disk(card, name, root), card.counts(name)
            official = sum((counts.test or {}).values()) if counts else 0
            if there or official:
                found.append(Tested(card.name, name, there or official, official=not there))
    return found


def unscored_lines(suite: Suite, data_root: Path | None, cache: Path) -> Iterator[str]:
    """Yields lines for people on what a suite's protocols leave out; none where they score everything."""
    names = [name for name in dict.fromkeys(suite.protocols) if name in PROTOCOLS]
    dropping = [name for name in names if PROTOCOLS[name].incomplete_batches == "dropped"]
    if not dropping or not (found := tested(suite, data_root, cache)):
        return
    source = ""
    if any(one.official for one in found):
        source = " Where the files are not there, the card's official counts tell."
    yield (
        f"Not scored under {' and '.join(dropping)}, as in the published code: {_share(found)}, of each "
        f"category the last that fill no batch of {PUBLISHED_BATCH}.{source}"
    )
    for dataset, own in groupby(found, key=lambda one: one.dataset):
        parts = list(own)
        lost = ", ".join(f"{one.category} {one.unscored} of {one.images}" for one in parts if one.unscored)
        yield f"  {dataset} {_total(parts)}{f': {lost}' if lost else ''}"


def _share(found: Sequence[Tested]) -> str:
    lost, images = sum(one.unscored for one in found), sum(one.images for one in found)
    return f"{lost:,} of {images:,} test images ({100 * lost / images:.1f} %)"


def _total(found: Sequence[Tested]) -> str:
    return f"{sum(one.unscored for one in found):,} of {sum(one.images for one in found):,}"


def _root(card: Card, data_root: Path | None, cache: Path) -> Path | None:
    try:
        return dataset_root(card, data_root, cache)
    except UserError:
        return None


def _on_disk(card: Card, category: str, root: Path | None) -> int:
    """How many test images of a category there are, 0 where it is not there or cannot be listed."""
    try:
        return len(scan_category(card, category, root).test) if root else 0
    except UserError:
        return 0
