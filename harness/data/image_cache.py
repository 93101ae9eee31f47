"""Decoding of images and masks, and the cache that keeps them decoded.

Each image is decoded once: arrays are kept as ``.npy`` files named by the content of their sources, so that
every method, seed and worker process shares them, and a changed file is never mistaken for an old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from harness.common.errors import UserError
from harness.common.files import remove_leftovers, temporary_name
from harness.common.parallel import in_threads
from harness.data.decoding import Pixels, read_resized, resized_masks
from harness.data.file_hashes import content_hashes
from harness.spec.protocols import Crop, ImageFit

FORMAT = 1
_ARRAYS = "images"


def load_images(paths: Sequence[Path], fit: ImageFit, cache: Path) -> Pixels:
    """Returns RGB images ``[N, size, size, 3]``, read-only and mapped from the cache.

    Resize ``antialiased`` is Pillow's bilinear filter, ``opencv`` is ``cv2.INTER_LINEAR``. Crop ``centre``
    resizes to size / 0.875 and cuts out the middle.
    """
    versions = [FORMAT, PIL.__version__, *([cv2.__version__] if fit.resize == "opencv" else [])]
    spec = ["images", versions, fit.resize, fit.size, content_hashes(paths, cache), *_named(fit.crop)]
    shape = (len(paths), fit.size, fit.size, 3)
    return _cached("images", spec, shape, lambda i: read_resized(paths[i], fit), cache)


def load_masks(paths: Sequence[Sequence[Path]], fit: ImageFit, cache: Path) -> Pixels:
    """Returns masks of 0 and 1 ``[N, size, size]``, read-only and mapped from the cache.

    The masks of one image are resized like ``cv2.INTER_NEAREST`` and united; no mask gives zeros. Crop as
    for images.
    """
    hashes = iter(content_hashes([path for group in paths for path in group], cache))
    groups = [[next(hashes) for _ in group] for group in paths]
    spec = ["masks", [FORMAT, PIL.__version__, cv2.__version__], fit.size, groups, *_named(fit.crop)]
    shape = (len(paths), fit.size, fit.size)
    return _cached("masks", spec, shape, lambda i: resized_masks(paths[i], fit), cache)


def _named(crop: Crop) -> list[str]:
    """What tells cropped arrays apart; nothing without a crop, so that arrays made before are found."""
    return [] if crop == "none" else [crop]


def _cached(
    kind: str, spec: list[Any], shape: tuple[int, ...], decode: Callable[[int], Pixels], cache: Path
) -> Pixels:
    if shape[0] == 0:
        return np.zeros(shape, np.uint8)  # nothing can be mapped
    key = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:32]
    folder = cache / _ARRAYS
    damaged = []
    for path in sorted(folder.glob(f"{kind}-{key}-*.npy")):
        array = _open_checked(path, shape)
        if array is not None:
            return array
        warnings.warn(f"{path} is damaged; it is built again.", stacklevel=3)
        damaged.append(path)
    temporary = folder / temporary_name(key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        built: Pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with temporary.open("r+b") as file:
            # Without its space reserved, writing to a mapped file on a full disk kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        in_threads(lambda i: np.copyto(built[i], decode(i)), range(shape[0]))
        # The checksum is part of the name, so that array and checksum appear in one step.
        target = folder / f"{kind}-{key}-{_checksum(built)}.npy"
        # Opened before it gets its name: another process may clear the cache at any moment.
        array = _mapped(temporary)
        temporary.replace(target)
    except OSError as error:
        raise UserError(
            f"The cache {folder} cannot be written ({error}): free space or set BENCH_CACHE."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    for path in {*damaged} - {target}:
        path.unlink(missing_ok=True)
    return array


def _open_checked(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    try:
        array = _mapped(path)
    except (OSError, ValueError, EOFError):
        return None
    if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        return None
    return array if path.stem.endswith(f"-{_checksum(array)}") else None


def _mapped(path: Path) -> Pixels:
    array: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _checksum(array: Pixels) -> str:
    return f"{zlib.crc32(array.data):08x}"
