"""Where things lie on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The folders that a command works with.

    Attributes:
        cache: decoded images, hashes, weights, assets and the demo.
        data_root: the datasets; ``None`` where none is given, and there is the demo alone.
        results: the results folder.
    """

    cache: Path
    data_root: Path | None = None
    results: Path = Path("results")
