"""New images through a trained run: scores, verdicts and heat maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from harness.common.defaults import IMAGE_SUFFIXES
from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.parallel import in_threads
from harness.common.text import FORMULA
from harness.data.batches import BATCH, ahead, as_batch
from harness.data.decoding import Pixels, read_resized, read_rgb
from harness.method import Method
from harness.spec.protocols import CROPPED, PROTOCOLS, Crop
from harness.spec.record import RunRecord

# Share of the colours in an overlay where a map is high.
_STRONGEST = 0.6
_IS = {1: "is", 2: "are"}


@dataclass(frozen=True)
class Predicted:
    """What came of one image.

    Attributes:
        name: path within the folder, with slashes.
        score: finite; ``None`` for an image that has none.
        map: anomaly map, float32 ``[S, S]``, finite.
        problem: why there is no score, empty if there is one.
        without: in a word what such an image is: ``unreadable``, or ``not finite``.
    """

    name: str
    score: float | None = None
    map: NDArray[np.float32] | None = None
    problem: str = ""
    without: str = "unreadable"

    def verdict(self, threshold: float) -> str:
        """``anomalous`` above the threshold, else ``normal``; without a score neither, but why."""
        if self.score is None:
            return self.without
        return "anomalous" if self.score > threshold else "normal"


def image_files(place: Path) -> list[Path]:
    """Returns the images below a folder in the order of their paths, or the one image that a path is.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"There is no folder {place}: give one with images, or an image.")
    found = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"There is no image in {place}: {', '.join(sorted(IMAGE_SUFFIXES))} are read.")
    return found


def predict(method: Method, record: RunRecord, files: Sequence[Path], root: Path) -> Iterator[Predicted]:
    """Scores images, brought to their size as the run's were.

    One that cannot be read, or whose score or map is not finite, has a problem instead.

    Args:
        method: as it was trained.
        record: of its run.
        files: the images.
        root: the folder that their names are told from.
    """
    parts = (files[start : start + BATCH] for start in range(0, len(files), BATCH))
    for part, images in ahead((part, in_threads(lambda path: _read(path, record), part)) for part in parts):
        pixels = [image for image in images if not isinstance(image, str)]
        scored = iter(_scores(method, pixels) if pixels else ())
        for path, image in zip(part, images, strict=True):
            name = path.relative_to(root).as_posix()
            if isinstance(image, str):
                yield Predicted(name, problem=image)
                continue
            score, heat = next(scored)
            what = [part for part, value in (("score", score), ("map", heat)) if not np.isfinite(value).all()]
            if what:
                problem = f"the method gives {path} a {' and a '.join(what)} that {_IS[len(what)]} not finite"
                yield Predicted(name, problem=problem, without="not finite")
            else:
                yield Predicted(name, score, heat)


def _read(path: Path, record: RunRecord) -> Pixels | str:
    try:
        return read_resized(path, record.spec.fit)
    except UserError as error:
        return str(error)


def _scores(method: Method, images: Sequence[Pixels]) -> Iterator[tuple[float, NDArray[np.float32]]]:
    batch = as_batch(images).contiguous()
    with torch.no_grad():
        prediction = method.predict(batch)
    maps = prediction.map.float().cpu().numpy()
    yield from zip(prediction.score.float().cpu().tolist(), maps, strict=True)


def overlay(
    image: Pixels, heat: NDArray[np.float32], between: tuple[float, float], crop: Crop = "none"
) -> Pixels:
    """Returns an image with its anomaly map over it, at its own size: RGB ``[H, W, 3]``.

    Nothing is seen at the median pixel of normal maps, the colours turn from yellow to red at their highest,
    which a white line surrounds, and are full as far above it.

    Args:
        image: RGB ``[H, W, 3]``.
        heat: ``[S, S]``.
        between: median and maximum of the normal maps, see ``Operating.map_range``.
        crop: whether the map is of the middle of the image only.
    """
    height, width = image.shape[:2]
    low, high = between
    whole = np.full((height, width), low, np.float32)
    share = 1.0 if crop == "none" else CROPPED
    h, w = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - h) // 2, (width - w) // 2
    whole[top : top + h, left : left + w] = cv2.resize(heat, (w, h), interpolation=cv2.INTER_LINEAR)
    level = np.clip((whole - low) / max(2 * (high - low), 1e-12), 0, 1)[..., None]
    # Yellow, red at one half, dark red.
    places, colours = (0, 0.5, 1), ((255, 255, 0), (255, 0, 0), (120, 0, 0))
    colour = np.concatenate(
        [np.interp(level, places, channel) for channel in zip(*colours, strict=True)], axis=2
    )
    strength = _STRONGEST * np.minimum(2 * level, 1)
    mixed = np.ascontiguousarray(np.round((1 - strength) * image + strength * colour).astype(np.uint8))
    lines, _ = cv2.findContours((whole > high).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(mixed, lines, -1, (255, 255, 255), max(1, max(height, width) // 400)))


def write_overlay(path: Path, image: Path, heat: NDArray[np.float32], record: RunRecord) -> None:
    """Writes :func:`overlay` of an image file as PNG.

    Raises:
        OSError: it cannot be written.
        ValueError: the run has no range of normal maps.
    """
    if record.operating is None or record.operating.map_range is None:
        raise ValueError("the run has no range of normal maps")
    crop = PROTOCOLS[record.spec.protocol].crop
    drawn = overlay(read_rgb(image), heat, record.operating.map_range, crop)
    _, png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    write_atomically(path, png.tobytes())


def predictions_csv(found: Sequence[Predicted], threshold: float) -> bytes:
    """Returns ``file,score,threshold,verdict`` of each image; a name like a formula begins with ``./``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "score", "threshold", "verdict"])
    for one in found:
        name = f"./{one.name}" if one.name.startswith(FORMULA) else one.name
        score = "" if one.score is None else f"{one.score:.7g}"
        writer.writerow([name, score, f"{threshold:.7g}", one.verdict(threshold)])
    return out.getvalue().encode(errors="surrogateescape")
