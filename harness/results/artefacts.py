"""What lies beside a record, and where."""

from __future__ import annotations

from pathlib import Path

# Beside a record, by its key; and in its category's folder, shared by its runs.
KEPT = (".maps.safetensors", ".view.safetensors", ".parts.safetensors", ".weights.safetensors")
PICTURES = ".images.safetensors"


def weights_path(record: Path) -> Path:
    """Returns where the learned state of a run lies."""
    return record.with_suffix(".weights.safetensors")


def view_path(record: Path) -> Path:
    """Returns where the view that belongs to a record lies."""
    return record.with_suffix(".view.safetensors")


def pictures_path(record: Path, data: str, size: int, view: str) -> Path:
    """Returns where the pictures that belong to a record lie.

    Args:
        record: path of the record.
        data: fingerprint of the category's files.
        size: side of the run's images.
        view: how they came to it, see ``harness.spec.fingerprints.view``.
    """
    return record.parent.parent / f"{data}-{size}-{view}.images.safetensors"


def checkpoint_path(record: Path) -> Path:
    """Returns where the checkpoint of a run lies, beside its record."""
    return record.with_suffix(".checkpoint.safetensors")
