"""One category of a dataset, opened: its samples, the roles of its images, and the images of each role."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.common.places import Places
from harness.data.card import Card, dataset_root
from harness.data.decoding import Pixels
from harness.data.defects import DefectTable, read_defects
from harness.data.file_hashes import data_fingerprint
from harness.data.image_cache import load_images, load_masks
from harness.data.image_roles import Parts, Roles, assign, parts_of, remaining, scored
from harness.data.samples import CategoryData, read_category
from harness.spec.protocols import ImageFit, IncompleteBatches
from harness.spec.run import RunSpec


@dataclass(frozen=True)
class Category:
    """A category that is on disk.

    Attributes:
        card: of its dataset.
        name: of the category.
        samples: its images with their kinds and masks.
        places: where the dataset and the cache lie.
    """

    card: Card
    name: str
    samples: CategoryData
    places: Places

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the content of its files."""
        return data_fingerprint(self.samples, self.places.cache)

    @cached_property
    def root(self) -> Path:
        """The folder of its dataset."""
        return dataset_root(self.card, self.places.data_root, self.places.cache)

    @cached_property
    def defects(self) -> DefectTable | None:
        """The table of its defects, ``None`` where its dataset has none.

        Raises:
            UserError: it cannot be read.
        """
        return read_defects(self.card, self.name, self.root)

    @property
    def kinds(self) -> list[str]:
        """``normal`` or the kind of anomaly of each test image."""
        return [sample.kind for sample in self.samples.test]

    def roles(self, spec: RunSpec) -> Roles:
        """Returns which images a run trains, validates and tests on, see :func:`assign`."""
        return assign(len(self.samples.train), len(self.samples.validation), self.kinds, spec)

    def scored_rows(self, spec: RunSpec, moved: int, incomplete_batches: IncompleteBatches) -> list[int]:
        """Returns which test images a run scored that is recorded.

        Args:
            spec: the run.
            moved: how many anomalous ones it was trained on.
            incomplete_batches: what it did with them.
        """
        return scored(remaining(self.kinds, moved, spec.seed), incomplete_batches)

    def images(self, spec: RunSpec, roles: Roles) -> Parts:
        """Returns the images of each role, decoded and mapped from the cache."""
        return parts_of(roles, *self.decoded(spec.fit))

    def decoded(self, fit: ImageFit) -> tuple[Pixels, Pixels, Pixels]:
        """Returns training, validation and test images, each ``[N, size, size, 3]``.

        Raises:
            UserError: one of them cannot be read.
        """
        data, cache = self.samples, self.places.cache
        train, validation, test = (
            load_images([sample.image for sample in part], fit, cache)
            for part in (data.train, data.validation, data.test)
        )
        return train, validation, test

    def masks(self, fit: ImageFit) -> Pixels:
        """Returns the masks of all test images, of 0 and 1 ``[N, size, size]``.

        Raises:
            UserError: one of them cannot be read.
        """
        return load_masks([sample.masks for sample in self.samples.test], fit, self.places.cache)


def open_category(card: Card, name: str, places: Places) -> Category:
    """Opens a category; whatever is missing is a UserError that names it."""
    return Category(card, name, read_category(card, name, places.data_root, places.cache), places)
