"""The results folder: records, what lies beside them, locks, merging, archives, compaction.

In: records and arrays. Out: the same, whole or not at all: whatever is written replaces a file in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.results.map_views import load_view
    from harness.results.maps import load_maps
    from harness.results.store import Folder, newest, read_record, read_records, record_path, write_record

__all__ = [
    "Folder",
    "load_maps",
    "load_view",
    "newest",
    "read_record",
    "read_records",
    "record_path",
    "write_record",
]

__getattr__ = lazy(
    __name__,
    {
        "Folder": "store",
        "load_maps": "maps",
        "load_view": "map_views",
        "newest": "store",
        "read_record": "store",
        "read_records": "store",
        "record_path": "store",
        "write_record": "store",
    },
)
