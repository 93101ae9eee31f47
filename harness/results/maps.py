"""Kept anomaly maps: every value as it was, compressed.

Metrics see only ranks, but all of them: on a split with few anomalous pixels a single tie that was not there
moves average precision by more than 0.0001. So no 16-bit code will do. Half precision loses the ranks of maps
with a large offset; a table of 65,536 levels, as files of an earlier format have it, makes ties.

A file ``<key>.maps.safetensors`` holds

- ``codes``, bytes: zlib over four planes for each image, from the highest to the lowest byte of its codes.
  A float32 is taken as an integer that ascends with it; of that first the left and then the upper neighbour
  was subtracted (modulo 2³², outside the image 0), and signs were moved to the lowest bit: 0, −1, 1, −2, …
- ``scores``, float32;
- as metadata ``format`` = ``exact-32``, ``shape`` = ``N,H,W`` and ``crc32`` over the scores (zlib guards the
  codes).

Files of the first format, with ``maps`` and ``scores`` in float32, are read too, and so are those of the
second, ``ranked-16``: ``codes`` of two planes, without moved signs, that are places in a table ``levels``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from harness.common.files import write_atomically

Floats = NDArray[np.float32]
Codes = NDArray[np.uint32]

FORMAT = "exact-32"
_RANKED = "ranked-16"
# What is left has no repeats but runs of zeros: looking for others takes half as long again and finds none.
_STRATEGY = zlib.Z_RLE
_SIGN = np.uint32(1 << 31)


class DamagedMapsError(Exception):
    """A file is no file of kept maps, or no longer; the message is a few words on it."""


def save_maps(path: Path, maps: Floats, scores: Floats) -> None:
    """Writes maps ``[N, H, W]`` and scores ``[N]``; what is read is the same to the last bit.

    Raises:
        OSError: the folder cannot be made or written; an old file stays.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    arrays: dict[str, NDArray[Any]] = {"codes": _pack(maps), "scores": scores}
    described = {"format": FORMAT, "shape": ",".join(map(str, maps.shape)), "crc32": _sum(scores)}
    write_atomically(path, save(arrays, described))


def load_maps(path: Path) -> tuple[Floats, Floats]:
    """Returns maps and scores as they were written.

    Raises:
        DamagedMapsError: the file is missing, cannot be read, or does not hold what was written.
    """
    if not path.is_file():
        raise DamagedMapsError("no maps were kept")
    try:
        with safe_open(path, framework="numpy") as file:
            described = file.metadata() or {}
            arrays: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "format" not in described:
            return _checked(arrays["maps"], arrays["scores"])
        if described["format"] not in (FORMAT, _RANKED):
            raise DamagedMapsError(f"its maps have the unknown format '{described['format']}'")
        levels = [arrays["levels"]] if described["format"] == _RANKED else []
        if described["crc32"] != _sum(arrays["scores"], *levels):
            raise DamagedMapsError("its kept maps are damaged (checksum)")
        n, height, width = map(int, described["shape"].split(","))
        if levels:
            maps = levels[0][_unpack(arrays["codes"], (n, height, width), 2)]
        else:
            maps = _values(_unpack(arrays["codes"], (n, height, width), 4))
        return _checked(maps, arrays["scores"])
    except (SafetensorError, OSError, zlib.error, LookupError, ValueError) as error:
        raise DamagedMapsError(f"its kept maps are damaged ({error})") from error


@dataclass(frozen=True)
class KeptParts:
    """What post-processing starts from.

    Attributes:
        raw: a method's ``raw`` of all test images, ``[N, h, w]`` each, by name.
        validation: the same of the normal validation images, ``[V, h, w]``; empty in older files.
        statistics: the method's ``statistics``, by name.
    """

    raw: Mapping[str, NDArray[Any]]
    validation: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    statistics: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def save_parts(path: Path, parts: KeptParts) -> None:
    """Writes kept parts.

    Raises:
        OSError: the folder cannot be made or written; an old file stays.
    """
    named = {
        f"{kind}/{name}": np.ascontiguousarray(array)
        for kind, arrays in vars(parts).items()
        for name, array in arrays.items()
    }
    write_atomically(path, save(named))


def load_parts(path: Path) -> KeptParts:
    """Returns what :func:`save_parts` wrote.

    Raises:
        DamagedMapsError: the file is missing or cannot be read.
    """
    if not path.is_file():
        raise DamagedMapsError("no parts were kept")
    found: dict[str, dict[str, NDArray[Any]]] = {part.name: {} for part in fields(KeptParts)}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                kind, _, own = name.partition("/")
                found[kind][own] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError) as error:
        raise DamagedMapsError(f"its kept parts are damaged ({error})") from error
    return KeptParts(**found)


def _pack(maps: Floats) -> NDArray[np.uint8]:
    packer = zlib.compressobj(1, strategy=_STRATEGY)
    parts = []
    for image in np.asarray(maps, np.float32):
        bits = np.ascontiguousarray(image).view(np.uint32)
        # Of negative numbers the larger ones have the smaller bits.
        ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
        left = np.diff(ascending, axis=1, prepend=np.uint32(0))
        change = np.diff(left, axis=0, prepend=np.uint32(0))
        codes = (change << 1) ^ (np.uint32(0) - (change >> 31))
        parts += [packer.compress((codes >> shift).astype(np.uint8).tobytes()) for shift in (24, 16, 8, 0)]
    return np.frombuffer(b"".join([*parts, packer.flush()]), np.uint8)


def _values(codes: Codes) -> Floats:
    """The maps of what :func:`_pack` made of them, in the same memory."""
    for image in codes:
        change = (image >> 1) ^ (np.uint32(0) - (image & 1))
        ascending = _sums(change)
        image[:] = np.where(ascending & _SIGN, ascending ^ _SIGN, ~ascending)
    return codes.view(np.float32)


def _unpack(packed: NDArray[np.uint8], shape: tuple[int, int, int], width: int) -> NDArray[Any]:
    """The codes [N, H, W] of so many bytes each; of two bytes with the neighbours added again."""
    size = width * math.prod(shape)
    unpacker = zlib.decompressobj()
    # One byte more than there should be, for a file that claims less than it holds.
    content = unpacker.decompress(packed.tobytes(), size + 1)
    if len(content) != size or not unpacker.eof:
        raise ValueError("their number differs from the shape")
    planes = np.frombuffer(content, np.uint8).reshape(shape[0], width, *shape[1:])
    codes = np.zeros(shape, np.uint16 if width == 2 else np.uint32)
    for image, own in zip(codes, planes, strict=True):
        for plane in own:
            image[:] = (image << 8) | plane
        if width == 2:
            image[:] = _sums(image)
    return codes


def _sums(change: NDArray[Any]) -> NDArray[Any]:
    """Undoes the subtraction of neighbours, modulo the size of the type."""
    return np.cumsum(np.cumsum(change, axis=0, dtype=change.dtype), axis=1, dtype=change.dtype)


def _checked(maps: NDArray[Any], scores: NDArray[Any]) -> tuple[Floats, Floats]:
    if maps.dtype != np.float32 or scores.dtype != np.float32 or maps.ndim != 3 or scores.ndim != 1:
        raise ValueError("not maps and scores in float32")
    return maps, scores


def _sum(*arrays: NDArray[Any]) -> str:
    return f"{zlib.crc32(b''.join(np.ascontiguousarray(array).tobytes() for array in arrays)):08x}"
