"""From a dataset's card to decoded images: samples, image roles, batches, hashes, the image cache.

In: a card and the folder of datasets. Out: the samples of a category, the images of each role, and what
identifies their files. The demo dataset is made here, and published ones are downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.data.card import Card, card_names, load_card
    from harness.data.file_hashes import data_fingerprint
    from harness.data.image_cache import load_images, load_masks
    from harness.data.image_roles import Roles, assign
    from harness.data.samples import CategoryData, Sample, read_category, scan_category

__all__ = [
    "Card",
    "CategoryData",
    "Roles",
    "Sample",
    "assign",
    "card_names",
    "data_fingerprint",
    "load_card",
    "load_images",
    "load_masks",
    "read_category",
    "scan_category",
]

__getattr__ = lazy(
    __name__,
    {
        "Card": "card",
        "CategoryData": "samples",
        "Roles": "image_roles",
        "Sample": "samples",
        "assign": "image_roles",
        "card_names": "card",
        "data_fingerprint": "file_hashes",
        "load_card": "card",
        "load_images": "image_cache",
        "load_masks": "image_cache",
        "read_category": "samples",
        "scan_category": "samples",
    },
)
