"""Decoding of images and masks, and the cache that keeps them decoded.

Each image is decoded once: arrays are kept as ``.npy`` files named by the content of their sources, so that
every method, seed and worker process shares them, and a changed file is never mistaken for an old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from harness.errors import UserError
from harness.files import SETTLED_NS, remove, remove_leftovers, temporary_name
from harness.files import cache_dir as cache_dir
from harness.protocols import CROPPED, Crop
from harness.protocols import Resize as Resize

if TYPE_CHECKING:
    from harness.dataset import CategoryData

Pixels = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")

FORMAT = 1
# Pillow goes by the content and not by the name: of its other formats some start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
# Pixels of the longest side; how many there may be in all is Pillow's own limit, 89 million.
_LONGEST = 1 << 15
_HASHES = "hashes.sqlite"
_ARRAYS = "images"
_EXIF_ORIENTATION = 0x0112


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Applies a function in threads; decoding and hashing let go of the interpreter's lock."""
    with ThreadPoolExecutor(min(8, cores())) as pool:
        return list(pool.map(function, items))


# Reading one file


def read_image(path: Path) -> Image.Image:
    """Opens and fully decodes an image; an EXIF orientation, where present, is applied.

    A broken file, or one that claims more pixels than Pillow accepts, is a UserError.
    """
    with _opened(path) as image:
        image.load()
        return image if image.getexif().get(_EXIF_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def image_size(path: Path) -> tuple[int, int]:
    """Returns height and width that :func:`read_image` gives an image, from its header."""
    with _opened(path) as image:
        width, height = image.size
        # Orientations from 5 on lie on their side.
        return (width, height) if image.getexif().get(_EXIF_ORIENTATION, 1) > 4 else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > (Image.MAX_IMAGE_PIXELS or math.inf) or max(width, height) > _LONGEST:
                raise UserError(f"{path} has too many pixels ({width} × {height}): scale it down.")
            # A JPEG may carry a second image for other displays; the first is what everybody sees.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{path} holds {frames} images: save the one that counts by itself.")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} has too many pixels ({error}): scale it down.") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # on a damaged file Pillow raises whatever a decoder stumbles over
        raise UserError(
            f"{path} cannot be read as an image ({error}): restore it from the source."
        ) from error


def read_rgb(path: Path) -> Pixels:
    """Reads an image as RGB ``[H, W, 3]``: 16 bits are scaled to 8, palettes looked up, alpha dropped."""
    return np.asarray(_rgb(read_image(path), path), np.uint8)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point pixels: save it with 8 or 16 bits a channel.")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(path: Path) -> Pixels:
    """Reads a mask as 0 and 1 ``[H, W]``: any value other than 0 (black) is anomalous."""
    image = read_image(path)
    if image.mode not in ("1", "L") and not image.mode.startswith(("I", "F")):
        image = _rgb(image, path)
    marked = np.asarray(image) != 0
    return np.asarray(marked.any(axis=2) if marked.ndim == 3 else marked, np.uint8)


def read_resized(path: Path, size: int, resize: Resize, crop: Crop) -> Pixels:
    """Reads an image, resized and cropped as a protocol says: RGB ``[size, size, 3]``."""
    image, side = _rgb(read_image(path), path), _side(size, crop)
    if resize == "opencv":
        whole = cv2.resize(np.asarray(image), (side, side), interpolation=cv2.INTER_LINEAR)
        return _middle(np.asarray(whole, np.uint8), size)
    return _middle(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), size)


def _resized_masks(paths: Sequence[Path], size: int, crop: Crop) -> Pixels:
    side = _side(size, crop)
    united = np.zeros((side, side), np.uint8)
    for path in paths:
        united |= np.asarray(
            cv2.resize(read_mask(path), (side, side), interpolation=cv2.INTER_NEAREST), np.uint8
        )
    return _middle(united, size)


def _side(size: int, crop: Crop) -> int:
    """The side that an image comes to before its middle is cut out."""
    return size if crop == "none" else round(size / CROPPED)


def _middle(pixels: Pixels, size: int) -> Pixels:
    start = (len(pixels) - size) // 2
    return pixels[start : start + size, start : start + size]


# Content hashes


def content_hashes(paths: Sequence[Path], cache: Path) -> list[str]:
    """Returns the SHA-256 of each file, remembered in the cache by path, size and time of change.

    A file that cannot be read is a :class:`UserError`.
    """
    keys = [_stat(path) for path in paths]
    known = _with_memo(cache, lambda db: _recall(db, keys)) or {}
    fresh = sorted({key for key in keys if key not in known})
    hashed = dict(zip(fresh, in_threads(_sha256, [key[0] for key in fresh]), strict=True))
    before = time.time_ns() - SETTLED_NS
    settled = [(*key, value) for key, value in hashed.items() if key[2] < before]
    if settled:
        _with_memo(
            cache, lambda db: db.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", settled)
        )
    known.update(hashed)
    return [known[key] for key in keys]


_Key = tuple[str, int, int]


def _stat(path: Path) -> _Key:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _recall(db: sqlite3.Connection, keys: Iterable[_Key]) -> dict[_Key, str]:
    query = "SELECT sha256 FROM hashes WHERE path = ? AND size = ? AND mtime_ns = ?"
    rows = ((key, db.execute(query, key).fetchone()) for key in keys)
    return {key: str(row[0]) for key, row in rows if row}


def _with_memo(cache: Path, work: Callable[[sqlite3.Connection], R]) -> R | None:
    """Runs work in one transaction on the memo; without a usable memo files are merely hashed again."""
    path = cache / _HASHES
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS hashes (path PRIMARY KEY, size, mtime_ns, sha256)")
            return work(db)
    except sqlite3.OperationalError as error:
        warnings.warn(f"{path} cannot be used ({error}); files are hashed again.", stacklevel=3)
    except sqlite3.DatabaseError as error:
        warnings.warn(f"{path} is damaged ({error}); it is made anew.", stacklevel=3)
        path.unlink(missing_ok=True)
    return None


# Decoded arrays


def load_images(paths: Sequence[Path], size: int, resize: Resize, cache: Path, crop: Crop = "none") -> Pixels:
    """Returns RGB images ``[N, size, size, 3]``, read-only and mapped from the cache.

    Resize ``antialiased`` is Pillow's bilinear filter, ``opencv`` is ``cv2.INTER_LINEAR``. Crop ``centre``
    resizes to size / 0.875 and cuts out the middle.
    """
    versions = [FORMAT, PIL.__version__, *([cv2.__version__] if resize == "opencv" else [])]
    spec = ["images", versions, resize, size, content_hashes(paths, cache), *_named(crop)]
    shape = (len(paths), size, size, 3)
    return _cached("images", spec, shape, lambda i: read_resized(paths[i], size, resize, crop), cache)


def load_masks(paths: Sequence[Sequence[Path]], size: int, cache: Path, crop: Crop = "none") -> Pixels:
    """Returns masks of 0 and 1 ``[N, size, size]``, read-only and mapped from the cache.

    The masks of one image are resized like ``cv2.INTER_NEAREST`` and united; no mask gives zeros. Crop as
    for images.
    """
    hashes = iter(content_hashes([path for group in paths for path in group], cache))
    groups = [[next(hashes) for _ in group] for group in paths]
    spec = ["masks", [FORMAT, PIL.__version__, cv2.__version__], size, groups, *_named(crop)]
    shape = (len(paths), size, size)
    return _cached("masks", spec, shape, lambda i: _resized_masks(paths[i], size, crop), cache)


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


class CacheEntry(NamedTuple):
    """One thing in the cache: a decoded array, the memo of hashes, or the demo's images."""

    path: Path
    bytes: int


def cache_entries(cache: Path) -> list[CacheEntry]:
    """Returns what this module, the demo and reports keep in the cache, and how large each is."""
    own = [*(cache / _ARRAYS).glob("*"), *cache.glob(f"{_HASHES}*")]
    paths = [*own, *cache.glob("demo-*"), *cache.glob("records-*.cache")]
    return [CacheEntry(path, _bytes(path)) for path in sorted(paths)]


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def clear_cache(cache: Path) -> tuple[int, int]:
    """Removes everything that :func:`cache_entries` lists; returns how many entries and bytes."""
    entries = cache_entries(cache)
    for entry in entries:
        remove(entry.path)
    return len(entries), sum(entry.bytes for entry in entries)


def data_fingerprint(data: CategoryData, cache: Path) -> str:
    """Returns a short SHA-256 over content and role of every file of a category; names do not count."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    files = [path for part in parts.values() for sample in part for path in (sample.image, *sample.masks)]
    hashes = iter(content_hashes(files, cache))
    roles = [
        [role, sample.kind, next(hashes), [next(hashes) for _ in sample.masks]]
        for role, part in parts.items()
        for sample in part
    ]
    return hashlib.sha256(json.dumps(roles).encode()).hexdigest()[:16]
