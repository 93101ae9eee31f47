"""What was measured of anomalib's models: ``measured.toml``, which a slow test runs from end to end."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_FILE = Path(__file__).with_suffix(".toml")
_WORDS = {
    "real": "measured with real weights",
    "none": "measured; it needs no weights",
    "random": "measured with random weights only",
}


@dataclass(frozen=True)
class Measured:
    """A model that a test runs on the demo's texture by the command line.

    Attributes:
        weights: ``real`` (EfficientNet-Lite0's of ImageNet), ``none`` (it has no pretrained network) or
            ``random``.
        params: hyper-parameters, as in a method's name.
        size: side of the images in pixels.
        why: what is not the real thing, and why; empty for nothing.
    """

    weights: Literal["real", "none", "random"]
    params: str
    size: int = 128
    why: str = ""

    def words(self) -> str:
        """In words, for people."""
        return _WORDS[self.weights] + (f": {self.why}" if self.why else "")


def read() -> Mapping[str, Measured]:
    """Returns what was measured, by model."""
    found = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {name: Measured(**entry) for name, entry in found.items()}
