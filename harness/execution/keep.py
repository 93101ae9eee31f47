"""What a run leaves beside its record: weights, views of maps, pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import save as save_tensors

from harness.common.files import write_atomically
from harness.data.image_cache import load_images, load_masks
from harness.data.samples import Sample
from harness.method import Method
from harness.metrics.curves import curve
from harness.results.artefacts import pictures_path, view_path, weights_path
from harness.results.category_pictures import joined
from harness.spec.protocols import ImageFit

_QUALITY = 85


def save_state(record: Path, method: Method) -> None:
    """Writes what a method has learned beside its record.

    Raises:
        OSError: the folder cannot be made or written.
    """
    state = {name: t.detach().cpu().contiguous() for name, t in method.state_dict().items()}
    write_atomically(weights_path(record), save_tensors(state))


@dataclass(frozen=True)
class ShownImages:
    """Test images as a report shows them beside maps.

    Attributes:
        samples: every test image of the category.
        data: fingerprint of the category's files.
        fit: how images come to the size of the maps.
        cache: the cache folder.
        rows: of the test images, those that the maps are of; ``None`` for all.
    """

    samples: Sequence[Sample]
    data: str
    fit: ImageFit
    cache: Path
    rows: Sequence[int] | None = None


def keep_view(
    record: Path, maps: NDArray[np.float32], scores: NDArray[np.float32], shown: ShownImages
) -> None:
    """Writes what a report shows of a run's maps, and the pictures of its test images.

    Args:
        record: path of the record.
        maps: ``[N, S, S]``, finite.
        scores: ``[N]``.
        shown: the N images.

    Raises:
        OSError: the folder cannot be written.
        UserError: an image or a mask cannot be read.
    """
    samples, fit = shown.samples, shown.fit
    rows = range(len(samples)) if shown.rows is None else shown.rows
    keep_pictures(pictures_path(record, shown.data, fit.size, fit.view), samples, fit, shown.cache)
    masks = load_masks([sample.masks for sample in samples], fit, shown.cache)
    if len(rows) < len(samples):
        masks = masks[list(rows)]
    write_atomically(view_path(record), _content(maps, scores, masks, rows))


def _content(
    maps: NDArray[np.float32], scores: NDArray[np.float32], masks: NDArray[np.uint8], rows: Sequence[int]
) -> bytes:
    files = []
    for grey in _greys(maps):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "JPEG", quality=_QUALITY)
        files.append(buffer.getvalue())
    arrays: dict[str, NDArray[Any]] = {
        "scores": np.ascontiguousarray(scores, np.float32),
        "curve": curve(maps, masks),
        "rows": np.array(rows, np.int64),
    }
    arrays["greys"], arrays["grey_ends"] = joined(files)
    return save(arrays)


def _greys(maps: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """Maps ``[N, H, W]`` on one scale of grey."""
    sample = maps.reshape(-1)[:: max(1, maps.size >> 22)]
    black, white = (float(q) for q in np.quantile(sample, (0.5, 0.999)))
    scale = 255 / max(white - black, float(np.finfo(np.float32).tiny))
    return [np.clip((m - black) * scale, 0, 255).astype(np.uint8) for m in maps]


def keep_pictures(path: Path, samples: Sequence[Sample], fit: ImageFit, cache: Path) -> None:
    """Writes pictures of test images, unless an earlier run on the same images did.

    Args:
        path: the file, see :func:`pictures_path`.
        samples: the test images.
        fit: how images and masks come to their size.
        cache: the cache folder.

    Raises:
        OSError: the folder cannot be made or written.
        UserError: an image cannot be read.
    """
    if _side(path) == str(fit.size):
        return
    images = load_images([sample.image for sample in samples], fit, cache)
    masks = load_masks([sample.masks for sample in samples], fit, cache)
    arrays: dict[str, NDArray[Any]] = {}
    arrays["images"], arrays["image_ends"] = joined([_jpeg(image) for image in images])
    arrays["masks"], arrays["mask_ends"] = joined([_png(mask) for mask in masks])
    texts = {
        "names": [f"{s.image.parent.name}/{s.image.name}" for s in samples],
        "kinds": [s.kind for s in samples],
        "defects": [s.defect for s in samples],
    }
    described = {key: json.dumps(values) for key, values in texts.items()}
    write_atomically(path, save(arrays, described | {"side": str(fit.size)}))


def _side(path: Path) -> str:
    """The size of the pictures in a file, empty where that is not known."""
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("side", ""))
    except (OSError, SafetensorError):
        return ""


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """RGB ``[S, S, 3]`` as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _png(mask: NDArray[np.uint8]) -> bytes:
    """A mask ``[S, S]`` as a file, in one bit."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask) > 0).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
