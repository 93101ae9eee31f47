"""The demo dataset, made from photographs that come with scikit-image: nothing is downloaded.

``texture`` shows gravel with scratches, stains and foreign patches. ``tray`` shows real coins in a tray of
nine compartments: large silver coins in the corners, small bronze ones between them, nothing in the middle;
coins are damaged (structural) or missing, too many or swapped (logical).

Everything is integer arithmetic on the raw output of PCG64, which NumPy keeps stable, so that the pixels
are the same with every version and on every machine; a checksum proves it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.common.errors import UserError
from harness.common.files import remove_leftovers, temporary_name

Ints = NDArray[np.int64]

SIZE = 256
PIXELS_SHA256 = "eed0de4611d25da98609d2e5fe67f90bb72e29e6b799cba884e538411ecfb961"
_FOLDER = "demo-1"
_MARKER = "complete.json"
_OPAQUE = 256  # alpha runs from 0 to this

# x, y and radius of coins in the photograph, in thirds of a pixel.
_LARGE = ((1006, 132, 85), (1043, 562, 93), (141, 781, 81))
_SMALL = ((1011, 376, 57), (132, 592, 55), (463, 594, 57))
_SILVER = (232, 236, 246)
_BRONZE = (250, 190, 128)
_LARGE_CELLS = (0, 2, 6, 8)
_SMALL_CELLS = (1, 3, 5, 7)
_EMPTY_CELL = 4


class _Dice:
    """Random integers from the raw stream of PCG64; NumPy's distributions may change between versions."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(list(seed))

    def within(self, low: int, high: int) -> int:
        """Returns an integer from low to high, both included."""
        return low + (int(self._bits.random_raw()) >> 32) * (high - low + 1) // 2**32

    def noise(self, shape: tuple[int, ...]) -> Ints:
        """Returns noise around 0 with a standard deviation of about 148: the sum of four bytes."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype=np.uint64) >> np.uint64(32)
        words = raw.astype(np.int64).reshape(shape)
        return np.asarray((words & 255) + (words >> 8 & 255) + (words >> 16 & 255) + (words >> 24) - 510)


def _box_blur(image: Ints, radius: int) -> Ints:
    """Averages over squares, twice, which is close to a Gaussian."""
    for _ in range(2):
        for axis in (0, 1):
            padding = [(radius + 1, radius) if a == axis else (0, 0) for a in range(image.ndim)]
            sums = np.cumsum(np.pad(image, padding, mode="edge"), axis=axis)
            width = 2 * radius + 1
            upper = np.take(sums, range(width, sums.shape[axis]), axis=axis)
            lower = np.take(sums, range(sums.shape[axis] - width), axis=axis)
            image = (upper - lower + width // 2) // width
    return image


def _disc(x: int, y: int, radius: int) -> Ints:
    """Returns the alpha of a disc with an edge about two pixels soft; arguments in 1/16 pixel."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] * 16
    squared = (rows - y) ** 2 + (columns - x) ** 2
    inner, outer = max(radius - 16, 0) ** 2, (radius + 16) ** 2
    return np.asarray(np.clip((outer - squared) * _OPAQUE // (outer - inner), 0, _OPAQUE))


def _scratch(dice: _Dice, x: int, y: int, steps: int, radius: int) -> Ints:
    """Returns the alpha of a scratch that starts at (x, y) and bends a little; arguments in 1/16 pixel."""
    alpha = np.zeros((SIZE, SIZE), np.int64)
    degrees = dice.within(0, 359)
    for step in range(steps):
        # Thin at both ends.
        width = max(radius * min(step + 2, steps - step + 1, 8) // 8, 9)
        np.maximum(alpha, _disc(x, y, width), out=alpha)
        degrees += dice.within(-9, 9)
        sine, cosine = _direction(degrees)
        x, y = x + cosine * 32 // 4096, y + sine * 32 // 4096
    return alpha


def _direction(degrees: int) -> tuple[int, int]:
    angle = math.radians(degrees)
    return round(math.sin(angle) * 4096), round(math.cos(angle) * 4096)


def _blob(dice: _Dice, x: int, y: int, radius: int, softness: int) -> Ints:
    """Returns the alpha of an irregular spot; position and radius in 1/16 pixel, softness in pixels."""
    alpha = _disc(x, y, radius * 3 // 4)
    for _ in range(7):
        shift = (dice.within(-radius, radius) * 3 // 4, dice.within(-radius, radius) * 3 // 4)
        part = _disc(x + shift[0], y + shift[1], radius * dice.within(30, 60) // 100)
        np.maximum(alpha, part, out=alpha)
    return _box_blur(alpha, softness)


def _blend(image: Ints, colour: Ints | tuple[int, ...] | int, alpha: Ints) -> Ints:
    if image.ndim == 3:
        alpha = alpha[:, :, None]
    return image + (np.asarray(colour, np.int64) - image) * alpha // _OPAQUE


def _sample(image: Ints, rows: Ints, columns: Ints) -> Ints:
    """Interpolates between pixels; positions in 1/256 pixel, outside of the image its edge goes on."""
    rows = np.clip(rows, 0, (image.shape[0] - 1) * 256 - 1)
    columns = np.clip(columns, 0, (image.shape[1] - 1) * 256 - 1)
    r, c, down, right = rows >> 8, columns >> 8, rows & 255, columns & 255
    top = image[r, c] * (256 - right) + image[r, c + 1] * right
    bottom = image[r + 1, c] * (256 - right) + image[r + 1, c + 1] * right
    return np.asarray((top * (256 - down) + bottom * down + 2**15) >> 16)


def _exposed(image: Ints, dice: _Dice) -> NDArray[np.uint8]:
    """Applies a small change of brightness, light that falls off to one side, and the sensor's noise."""
    light = dice.within(970, 1030) + np.arange(SIZE) * dice.within(-32, 32) // SIZE
    light = light.reshape(1, SIZE, *[1] * (image.ndim - 2))
    noisy = image * light // 1000 + dice.noise(image.shape) * 5 // 256
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _mask(alpha: Ints) -> NDArray[np.uint8]:
    return np.asarray(np.where(alpha >= _OPAQUE * 3 // 8, 255, 0), np.uint8)


# One image of each category. A picture is its pixels and the masks of its defects.

_Picture = tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]


def _crop(photo: Ints, dice: _Dice, rows: tuple[int, int], columns: tuple[int, int]) -> Ints:
    """Takes 160×160 pixels from a region of a photograph, enlarged to the full size."""
    top, left = (dice.within(low, high - 160) * 256 for low, high in (rows, columns))
    grid = np.mgrid[0:SIZE, 0:SIZE] * 160
    return _sample(photo, top + grid[0], left + grid[1])


def _texture(photos: dict[str, Ints], part: str, defect: str, dice: _Dice) -> _Picture:
    # Training, validation and test images come from parts of the photograph that do not overlap.
    rows = {"train": (0, 512), "validation": (0, 206), "test": (206, 512)}[part]
    image = _crop(photos["gravel"], dice, rows, (0, 304) if part == "train" else (304, 512))
    x, y = dice.within(60 * 16, 196 * 16), dice.within(60 * 16, 196 * 16)
    if not defect:
        return _exposed(image, dice), []
    if defect == "scratch":
        alpha = _scratch(dice, x, y, dice.within(30, 55), dice.within(24, 38))
        image = _blend(image, dice.within(205, 235), alpha * 200 // _OPAQUE)
    elif defect == "stain":
        alpha = _blob(dice, x, y, dice.within(16, 28) * 16, 3)
        image = _blend(image, image * dice.within(38, 52) // 100 + 8, alpha)
    else:
        alpha = _blob(dice, x, y, dice.within(18, 27) * 16, 1)
        patch = _crop(photos["grass"], dice, (0, 512), (0, 512))
        image = _blend(image, patch * dice.within(92, 108) // 100, alpha)
    return _exposed(image, dice), [_mask(alpha)]


class _Tray:
    """A tray under construction: coins are laid in, damaged, and photographed."""

    def __init__(self, photos: dict[str, Ints], dice: _Dice) -> None:
        self._coins, self._dice = photos["coins"], dice
        grain = _box_blur(_crop(photos["grass"], dice, (0, 512), (0, 512)), 2) - 118
        rows = np.arange(SIZE)
        inside = ((rows - 14) % 80 < 68) & (rows >= 14) & (rows < 242)
        felt = _box_blur((inside[:, None] & inside[None, :]) * _OPAQUE, 1)
        ground = np.asarray((112, 78, 50)) + (grain * 20 // 64)[:, :, None]
        cloth = np.asarray((40, 52, 66)) + (dice.noise((SIZE, SIZE)) // 64)[:, :, None]
        # The walls throw a shadow to the right and down.
        wall = _box_blur(np.roll(_OPAQUE - felt, (4, 4), (0, 1)), 2)
        cloth = cloth * (_OPAQUE + 160 - wall)[:, :, None] // (_OPAQUE + 160)
        self.image: Ints = _blend(ground, cloth, felt)
        self.places: dict[int, tuple[int, int, int]] = {}

    def lay(self, cell: int, large: bool, off: tuple[int, int] = (0, 0)) -> Ints:
        """Lays a coin into a compartment, ``off`` its middle by so many pixels; returns the coin's alpha."""
        dice = self._dice
        pool, tint = (_LARGE, _SILVER) if large else (_SMALL, _BRONZE)
        cx, cy, radius = pool[dice.within(0, len(pool) - 1)]
        x = (48 + 80 * (cell % 3) + off[0]) * 16 + dice.within(-32, 32)
        y = (48 + 80 * (cell // 3) + off[1]) * 16 + dice.within(-32, 32)
        sine, cosine = _direction(dice.within(-25, 25))
        rows, columns = np.mgrid[0:SIZE, 0:SIZE] * 16 - np.asarray((y, x))[:, None, None]
        turned_rows = (rows * cosine - columns * sine) // 256 + cy * 256 // 3
        turned_columns = (rows * sine + columns * cosine) // 256 + cx * 256 // 3
        radius = radius * 16 // 3 - 8
        alpha = _disc(x, y, radius)
        grey = _sample(self._coins, turned_rows, turned_columns)
        level = int((grey * alpha).sum() // alpha.sum())
        grey = np.clip(150 + (grey - level) * 5 // 4, 20, 255)
        shadow = _box_blur(_disc(x + 40, y + 48, radius), 3) * 170 // _OPAQUE
        self.image = _blend(self.image, (10, 12, 16), shadow)
        self.image = _blend(self.image, grey[:, :, None] * np.asarray(tint) // 240, alpha)
        self.places[cell] = (x, y, radius)
        return alpha


def _tray(photos: dict[str, Ints], part: str, defect: str, dice: _Dice) -> _Picture:
    tray = _Tray(photos, dice)
    odd_large, odd_small = (cells[dice.within(0, 3)] for cells in (_LARGE_CELLS, _SMALL_CELLS))
    odd = odd_large if dice.within(0, 1) else odd_small
    swapped = {odd_large, odd_small} if defect == "swapped" else set()
    alphas: list[Ints] = []
    for cell in sorted({*_LARGE_CELLS, *_SMALL_CELLS}):
        large = cell in _LARGE_CELLS
        x, y = (48 + 80 * (cell % 3)) * 16, (48 + 80 * (cell // 3)) * 16
        expected = _disc(x, y, (30 if large else 20) * 16)
        if defect == "missing" and cell == odd:
            alphas.append(expected)
        elif defect == "crowded" and cell == odd_small:
            alphas += [tray.lay(cell, False, off) for off in ((-16, -14), (16, 14))]
        elif defect in ("chip", "scratch", "corrosion") and cell == odd:
            before = tray.image
            coin = tray.lay(cell, large)
            alphas.append(_damage(tray, before, coin, cell, defect, dice))
        elif cell in swapped:
            alphas.append(np.maximum(tray.lay(cell, not large), expected))
        else:
            tray.lay(cell, large)
    if defect == "extra":
        alphas.append(tray.lay(_EMPTY_CELL, bool(dice.within(0, 1))))
    return _exposed(tray.image, dice), [_mask(alpha) for alpha in alphas]


def _damage(tray: _Tray, before: Ints, coin: Ints, cell: int, defect: str, dice: _Dice) -> Ints:
    x, y, radius = tray.places[cell]
    sine, cosine = _direction(dice.within(0, 359))
    reach = radius * (95 if defect == "chip" else 42)
    x, y = x + cosine * reach // 409600, y + sine * reach // 409600
    if defect == "chip":
        alpha = _blob(dice, x, y, radius * dice.within(26, 34) // 100, 1)
        tray.image = _blend(tray.image, before, alpha)
    elif defect == "scratch":
        alpha = _scratch(dice, x, y, dice.within(16, 24), dice.within(18, 24))
        shade = 235 if dice.within(0, 1) else 48
        tray.image = _blend(tray.image, shade, np.minimum(alpha * 210 // _OPAQUE, coin))
    else:
        alpha = _blob(dice, x, y, radius * dice.within(28, 36) // 100, 2)
        green = tray.image * np.asarray((45, 80, 62)) // 100 + np.asarray((8, 34, 26))
        tray.image = _blend(tray.image, green, np.minimum(alpha, coin))
    return np.minimum(alpha, coin)


_PLAN = {
    "texture": {"structural_anomalies": ["scratch"] * 5 + ["stain"] * 5 + ["patch"] * 4},
    "tray": {
        "structural_anomalies": ["chip"] * 3 + ["scratch"] * 4 + ["corrosion"] * 3,
        "logical_anomalies": ["missing"] * 3 + ["extra"] * 2 + ["crowded"] * 2 + ["swapped"] * 3,
    },
}


def _pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yields the name and the pixels of every file of the dataset."""
    photos = _photographs()
    for number, (category, anomalies) in enumerate(_PLAN.items()):
        folders = {"train/good": [""] * 24, "validation/good": [""] * 6, "test/good": [""] * 10}
        folders |= {f"test/{folder}": defects for folder, defects in anomalies.items()}
        for place, (folder, defects) in enumerate(folders.items()):
            part, kind = folder.split("/")
            for index, defect in enumerate(defects):
                dice = _Dice(number, place, index)
                image, masks = (_tray if category == "tray" else _texture)(photos, part, defect, dice)
                yield f"{category}/{folder}/{index:03d}.png", image
                for count, mask in enumerate(masks):
                    yield f"{category}/ground_truth/{kind}/{index:03d}/{count:03d}.png", mask


def _photographs() -> dict[str, Ints]:
    try:
        data = importlib.import_module("skimage.data")
        return {name: np.asarray(getattr(data, name)(), np.int64) for name in ("gravel", "grass", "coins")}
    except (ImportError, AttributeError, OSError) as error:
        what = "The demo needs scikit-image's photographs, which could not be loaded"
        raise UserError(f'{what} ({error}): run pip install "ulsad-bench[demo]".') from error


def ensure_demo(cache: Path) -> Path:
    """Returns the folder of the demo dataset; makes it if the cache lacks it or holds a damaged one."""
    target = cache / _FOLDER
    if _complete(target):
        return target
    temporary = cache / temporary_name(_FOLDER)
    try:
        temporary.mkdir(parents=True)
        remove_leftovers(cache)
        digest = hashlib.sha256()
        for name, pixels in _pictures():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            digest.update(f"{name} {pixels.shape}".encode() + pixels.tobytes())
        if digest.hexdigest() != PIXELS_SHA256:
            what = "The demo came out with other pixels than it should (the photographs differ)"
            raise UserError(f'{what}: run pip install --upgrade "ulsad-bench[demo]".')
        (temporary / _MARKER).write_text(json.dumps({"files": _files_digest(temporary)}))
        _put(temporary, target, cache)
    except OSError as error:
        raise UserError(f"The demo cannot be made in {cache} ({error}): set BENCH_CACHE.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _files_digest(folder: Path) -> str:
    """Returns one SHA-256 over the names and bytes of all PNG files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.png"), key=Path.as_posix):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _complete(folder: Path) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_text())
        return bool(marker["files"] == _files_digest(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _put(temporary: Path, target: Path, cache: Path) -> None:
    """Gives the finished folder its name, unless another process was faster."""
    for _ in range(5):
        with contextlib.suppress(OSError):
            temporary.rename(target)
        if _complete(target):
            return
        # A damaged folder steps aside first, because a folder cannot replace a full one.
        aside = cache / temporary_name(_FOLDER)
        with contextlib.suppress(OSError):
            target.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{target} cannot be replaced")
