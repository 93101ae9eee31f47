"""What the cache folder holds: everything in it belongs to one of these kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.common.files import remove

# By the names in the cache folder; an asterisk stands for anything.
_KINDS = {
    "decoded images": ("images/*",),
    "hashes of files": ("hashes*",),
    "the demo": ("demo-*",),
    "copies of records": ("records-*.cache", "seen/*"),
    "downloaded weights": ("weights/*",),
    "downloaded assets": ("assets/*",),
}
DOWNLOADS = ("downloaded weights", "downloaded assets")
OTHER = "other"


@dataclass(frozen=True)
class CacheEntry:
    """One file or folder of the cache.

    Attributes:
        kind: what it is of; ``other`` where it is not ours.
        bytes: how large it is.
    """

    path: Path
    kind: str
    bytes: int


def cache_entries(cache: Path) -> list[CacheEntry]:
    """Returns everything that the cache folder holds."""
    kinds = {path: kind for kind, names in _KINDS.items() for name in names for path in cache.glob(name)}
    holders = {cache / name.partition("/")[0] for names in _KINDS.values() for name in names if "/" in name}
    others = [path for path in cache.glob("*") if path not in kinds and path not in holders]
    found = {**kinds, **dict.fromkeys(others, OTHER)}
    return [CacheEntry(path, kind, sum(_sizes(path))) for path, kind in sorted(found.items())]


def clear_cache(cache: Path, downloads: bool = False) -> tuple[int, int]:
    """Removes what can be made again, and downloads if asked; returns how many entries and bytes.

    What is not ours stays: the folder may be one that holds other things too.
    """
    stays = {OTHER, *(() if downloads else DOWNLOADS)}
    entries = [entry for entry in cache_entries(cache) if entry.kind not in stays]
    for entry in entries:
        remove(entry.path)
    return len(entries), sum(entry.bytes for entry in entries)


def _sizes(path: Path) -> Iterator[int]:
    files = path.rglob("*") if path.is_dir() else [path]
    return (file.stat().st_size for file in files if file.is_file())
