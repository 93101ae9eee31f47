"""Kept anomaly maps: 16 bits a pixel, in an order that metrics cannot tell from the original one.

Metrics see only ranks, and half precision would lose those of maps with a large offset. So all values of
the maps of one record share a table of at most 65,536 levels, and a pixel is the number of its level. Where
there are no more distinct values than that, nothing is lost at all. Else levels begin at ranks counted from
the highest value: three quarters of them at A (exp(k / A) − 1), A being several thousand, so that the
highest values have a level each and a level further down holds at most about the A-th part of the ranks above
it; one quarter evenly. A value that many pixels share has a level to itself.

A file ``<key>.maps.safetensors`` holds

- ``levels``, float32, ascending: of each level the median of its values;
- ``codes``, bytes: zlib over, for each image, the high and then the low bytes of its codes, of which first
  the left and then the upper neighbour was subtracted (modulo 65,536, outside the image 0);
- ``scores``, float32, exact;
- as metadata ``format`` = ``ranked-16``, ``shape`` = ``N,H,W`` and ``crc32`` over scores and levels
  (zlib guards the codes).

Files of the first format, with ``maps`` and ``scores`` in float32, are read too, and so are those with a
tensor ``thumbs`` that nothing needs any more.
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

from harness.files import write_atomically

Floats = NDArray[np.float32]
Codes = NDArray[np.uint16]

FORMAT = "ranked-16"
LEVELS = 1 << 16
_EVEN = LEVELS // 4
# Level 6 takes 7 % off the size, in two and a half times the time.
_EFFORT = 1
# Pixels whose level is looked up at a time.
_CHUNK = 1 << 22


class DamagedMapsError(Exception):
    """A file is no file of kept maps, or no longer; the message is a few words on it."""


def save_maps(path: Path, maps: Floats, scores: Floats) -> None:
    """Writes maps ``[N, H, W]``, which must be finite, and scores ``[N]``.

    Raises:
        OSError: the folder cannot be made or written; an old file stays.
    """
    codes, levels = quantise(maps)
    scores = np.ascontiguousarray(scores, np.float32)
    arrays: dict[str, NDArray[Any]] = {"codes": _pack(codes), "levels": levels, "scores": scores}
    described = {"format": FORMAT, "shape": ",".join(map(str, maps.shape)), "crc32": _sum(scores, levels)}
    write_atomically(path, save(arrays, described))


def load_maps(path: Path) -> tuple[Floats, Floats]:
    """Returns maps and scores, those of a file of an earlier format as they were written.

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
        if described["format"] != FORMAT:
            raise DamagedMapsError(f"its maps have the unknown format '{described['format']}'")
        if described["crc32"] != _sum(arrays["scores"], arrays["levels"]):
            raise DamagedMapsError("its kept maps are damaged (checksum)")
        n, height, width = map(int, described["shape"].split(","))
        codes = _unpack(arrays["codes"], (n, height, width))
        return _checked(arrays["levels"][codes], arrays["scores"])
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


def quantise(maps: Floats) -> tuple[Codes, Floats]:
    """Returns for each pixel the number of its level, and the value of each level, ascending."""
    ordered = np.sort(maps, axis=None)
    starts = _distinct(ordered)
    if starts is None:
        starts = _starts(ordered)
    first = np.searchsorted(ordered, starts, side="left")
    last = np.append(first[1:], len(ordered)) - 1
    codes = np.empty(maps.shape, np.uint16)
    flat, values = codes.reshape(-1), maps.reshape(-1)
    for at in range(0, len(flat), _CHUNK):
        part = slice(at, at + _CHUNK)
        flat[part] = np.searchsorted(starts, values[part], side="right") - 1
    return codes, ordered[(first + last) // 2].astype(np.float32)


def _distinct(ordered: Floats) -> Floats | None:
    """Returns the distinct values, if there are few enough for a level each."""
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return ordered[new] if np.count_nonzero(new) <= LEVELS else None


def _starts(ordered: Floats) -> Floats:
    """Returns the lowest value of each level, ascending; at most ``LEVELS`` of them."""
    n, fine = len(ordered), LEVELS - _EVEN
    scale = float(fine)
    for _ in range(60):  # A ln(1 + n / A) = number of levels
        scale = fine / math.log1p(n / scale)
    ranks = np.append(scale * np.expm1(np.arange(1, fine + 1) / scale), n * np.arange(1, _EVEN + 1) / _EVEN)
    at = np.unique(n - np.clip(np.rint(ranks), 1, n).astype(np.int64))
    at[0] = 0
    values = ordered[at]
    fresh = np.append(True, values[1:] != values[:-1])
    # A value in which several levels would begin shares its own with no other: the next value begins one.
    after = np.searchsorted(ordered, np.unique(values[~fresh]), side="right")
    return np.unique(np.append(values[fresh], ordered[after[after < n]]))


def _pack(codes: Codes) -> NDArray[np.uint8]:
    packer = zlib.compressobj(_EFFORT)
    parts = []
    for image in codes:
        left = np.diff(image, axis=1, prepend=np.uint16(0))
        change = np.diff(left, axis=0, prepend=np.uint16(0))
        parts += [
            packer.compress(plane.tobytes())
            for plane in ((change >> 8).astype(np.uint8), change.astype(np.uint8))
        ]
    return np.frombuffer(b"".join([*parts, packer.flush()]), np.uint8)


def _unpack(packed: NDArray[np.uint8], shape: tuple[int, int, int]) -> Codes:
    size = 2 * math.prod(shape)
    unpacker = zlib.decompressobj()
    # One byte more than there should be, for a file that claims less than it holds.
    content = unpacker.decompress(packed.tobytes(), size + 1)
    if len(content) != size or not unpacker.eof:
        raise ValueError("their number differs from the shape")
    planes = np.frombuffer(content, np.uint8).reshape(shape[0], 2, *shape[1:])
    codes = np.empty(shape, np.uint16)
    for image, (high, low) in zip(codes, planes, strict=True):
        change = (high.astype(np.uint16) << 8) | low
        np.cumsum(np.cumsum(change, axis=0, dtype=np.uint16), axis=1, dtype=np.uint16, out=image)
    return codes


def _checked(maps: NDArray[Any], scores: NDArray[Any]) -> tuple[Floats, Floats]:
    if maps.dtype != np.float32 or scores.dtype != np.float32 or maps.ndim != 3 or scores.ndim != 1:
        raise ValueError("not maps and scores in float32")
    return maps, scores


def _sum(*arrays: NDArray[Any]) -> str:
    return f"{zlib.crc32(b''.join(np.ascontiguousarray(array).tobytes() for array in arrays)):08x}"
