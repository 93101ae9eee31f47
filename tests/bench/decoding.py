"""Reading of images: ours beside other decoders that give the same pixels, and a category by all cores."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from harness.common.parallel import cores
from harness.data.decoding import Pixels, read_resized, read_rgb
from harness.data.image_cache import load_images
from harness.spec.protocols import ImageFit
from tests.bench.pairs import Pair

SIDE, SIZE = 1024, 256
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def photographs(folder: Path, count: int) -> dict[str, list[Path]]:
    """Writes photographs of 1,024 px with a camera's noise, by suffix."""
    generator, found = np.random.default_rng(0), dict[str, list[Path]](png=[], jpg=[])
    for number, name in enumerate(itertools.islice(itertools.cycle(PHOTOGRAPHS), count)):
        small: NDArray[np.uint8] = getattr(skimage.data, name)()
        large = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(large + generator.normal(0, 2, large.shape), 0, 255).astype(np.uint8)
        for suffix, paths in found.items():
            paths.append(folder / f"{number}.{suffix}")
            cv2.imwrite(str(paths[-1]), cv2.cvtColor(noisy, cv2.COLOR_RGB2BGR))
    return found


def by_opencv(path: Path) -> Pixels:
    """Decodes with OpenCV."""
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(found, np.uint8)


def by_torchvision(path: Path) -> Pixels:
    """Decodes with torchvision."""
    from torchvision.io import ImageReadMode, decode_image, read_file

    return np.asarray(decode_image(read_file(str(path)), ImageReadMode.RGB).permute(1, 2, 0).numpy())


def each(read: Callable[[Path], Pixels], paths: Sequence[Path]) -> Callable[[], object]:
    """Reads files one after another."""
    return lambda: [read(path) for path in paths]


def pairs(rounds: int = 7, count: int = 24) -> Iterator[Pair]:
    """Yields the decoders, each checked to give the same pixels, then the first reading of a category."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for suffix, paths in photographs(folder, count).items():
            for peer, read in (("OpenCV", by_opencv), ("torchvision", by_torchvision)):
                if not all(np.array_equal(read(path), read_rgb(path)) for path in paths[: len(PHOTOGRAPHS)]):
                    raise RuntimeError(f"{peer} gives other pixels")
                note = f"{count} {suffix.upper()} files of {SIDE} px, the same pixels"
                yield Pair("decoding", each(read_rgb, paths), each(read, paths), peer, 0.7, rounds, note=note)
        caches = (folder / f"cache{i}" for i in itertools.count())

        def category() -> object:
            return load_images(paths, ImageFit(SIZE), next(caches))

        def one_by_one() -> object:
            return [read_resized(path, ImageFit(SIZE)) for path in paths]

        note = f"{count} JPG files to {SIZE} px, hashes and the cache's file included, {cores()} cores"
        target = 0.7 * min(8, cores())
        yield Pair("reading a category", category, one_by_one, "one core", target, rounds, note=note)
