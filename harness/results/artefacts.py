"""What lies beside a record, and where: the one place that spells its names.

Beside ``<key>.json`` are ``<key>.maps.safetensors`` and the like, each left by ``--keep`` or made from what
is kept; in the category's folder, shared by its runs, are the pictures of its test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_END = ".safetensors"
# Beside a record, by its key, as long as there is the record.
_KEPT = ("maps", "view", "parts", "weights")
_PICTURES = f".images{_END}"
_CHECKPOINT = f".checkpoint{_END}"
CLAIM = ".claim"


def maps_path(record: Path) -> Path:
    """Returns where the anomaly maps of a run lie."""
    return record.with_suffix(f".maps{_END}")


def view_path(record: Path) -> Path:
    """Returns where what a report shows of the maps lies."""
    return record.with_suffix(f".view{_END}")


def parts_path(record: Path) -> Path:
    """Returns where the raw outputs before post-processing lie."""
    return record.with_suffix(f".parts{_END}")


def weights_path(record: Path) -> Path:
    """Returns where the learned state of a run lies."""
    return record.with_suffix(f".weights{_END}")


def checkpoint_path(record: Path) -> Path:
    """Returns where the checkpoint of a training lies, until there is the record."""
    return record.with_suffix(_CHECKPOINT)


def claim_path(record: Path) -> Path:
    """Returns where the lock of the process lies that does the run."""
    return record.with_suffix(CLAIM)


def pictures_path(record: Path, data: str, size: int, view: str) -> Path:
    """Returns where the pictures that belong to a record lie.

    Args:
        record: path of the record.
        data: fingerprint of the category's files.
        size: side of the run's images.
        view: how they came to it, see :attr:`harness.spec.ImageFit.view`.
    """
    return record.parent.parent / f"{data}-{size}-{view}{_PICTURES}"


def kept_paths(record: Path) -> dict[str, Path]:
    """Returns where everything lies that belongs to a record and goes with it, by what it is."""
    return {what: record.with_suffix(f".{what}{_END}") for what in _KEPT}


def kept_file_name(key: str, what: str) -> str:
    """Returns the name of the file of what is kept of a run."""
    return f"{key}.{what}{_END}"


def all_kept(results: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields everything kept in a folder: what it is, its path, and that of the record it belongs to."""
    for what in _KEPT:
        end = f".{what}{_END}"
        for path in sorted(results.glob(f"*/*/*/*{end}")):
            yield what, path, path.with_name(f"{path.name.removesuffix(end)}.json")


def all_pictures(results: Path) -> list[Path]:
    """Returns all pictures in a folder."""
    return sorted(results.glob(f"*/*/*{_PICTURES}"))


def all_checkpoints(results: Path) -> list[Path]:
    """Returns all checkpoints in a folder."""
    return sorted(results.glob(f"*/*/*/*{_CHECKPOINT}"))


def all_claims(results: Path) -> Iterator[Path]:
    """Yields the locks of all runs in a folder."""
    return results.glob(f"*/*/*/*{CLAIM}")


def has_pictures(category: Path) -> bool:
    """Whether a category's folder has pictures."""
    return any(category.glob(f"*{_PICTURES}"))
