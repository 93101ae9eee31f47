"""Test images with every method's map beside the mask, from runs that kept their maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.maps import load_thumbs
from harness.pictures import Pictures, load_pictures, pictures_path
from harness.spec import slug
from harness.store import record_path
from reports.leaderboard import Ranking
from reports.names import visible
from reports.page.charts import histogram_svg, roc_svg

# Bytes of images and charts that a page carries; what comes after is left out, and the page says so.
_BUDGET = 2_500_000
# How many images of a kind of choice are shown.
_EACH = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """Of one run: thumbnails of its maps, uint8 ``[N, 64, 64]``, and its scores ``[N]``."""

    thumbs: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]


def kept_maps(results: Path, ranking: Ranking, category: str) -> tuple[dict[str, Kept], Pictures | None]:
    """Returns the maps of each method's first seed that has them, and the images that belong to them.

    Args:
        results: folder of the records.
        ranking: whose runs.
        category: of its dataset.
    """
    kept: dict[str, Kept] = {}
    pictures = None
    # Without thumbnails there is no gallery: one look instead of one for every run.
    if not any((results / slug(ranking.dataset) / slug(category)).glob("*.images.safetensors")):
        return kept, pictures
    for method in ranking.methods:
        for seed in ranking.seeds:
            record = ranking.records.get((method, category, seed))
            if record is None or record.outcome != "ok":
                continue
            path = record_path(results, record.spec, record.key)
            found = load_thumbs(path.with_suffix(".maps.safetensors"))
            if found is None:
                continue
            size, view = record.spec.image_size, record.fingerprint.view
            pictures = pictures or load_pictures(pictures_path(path, record.identity.data, size, view))
            if pictures is not None and len(found[1]) == len(pictures.names):
                kept[method] = Kept(*found)
                break
    return kept, pictures


class Gallery:
    """Fills a page with pictures up to a limit of bytes."""

    def __init__(self, results: Path | None) -> None:
        self._results = results
        self._left = _BUDGET

    def of(self, ranking: Ranking) -> dict[str, Any]:
        """Returns the gallery of a ranking, category by category, and which categories found no space."""
        shown: list[dict[str, Any]] = []
        left_out: list[str] = []
        if self._results is None:
            return {"categories": shown, "left_out": left_out}
        for category in ranking.categories:
            kept, pictures = kept_maps(self._results, ranking, category)
            if not kept or pictures is None:
                continue
            if self._left <= 0:
                left_out.append(category)
                continue
            shown.append(self._category(category, kept, pictures))
        return {"categories": shown, "left_out": left_out}

    def _category(self, category: str, kept: dict[str, Kept], pictures: Pictures) -> dict[str, Any]:
        anomalous = np.array([kind != "normal" for kind in pictures.kinds])
        places = np.stack([places_of(k.scores) for k in kept.values()])
        groups = []
        for title, about, chosen in choices(places, anomalous, pictures.kinds):
            rows = [self._row(n, kept, places, pictures) for n in chosen]
            if rows:
                groups.append({"title": title, "about": about, "rows": rows})
        return {
            "name": category,
            "methods": list(kept),
            "groups": groups,
            "charts": [self._charts(method, k, anomalous) for method, k in kept.items()],
        }

    def _row(self, n: int, kept: dict[str, Kept], places: Floats, pictures: Pictures) -> dict[str, Any]:
        kind, defect = pictures.kinds[n], pictures.defects[n]
        what = (
            kind
            if kind == "normal" or not defect or defect.startswith(kind)
            else f"{kind}: {defect.replace('_', ' ')}"
        )
        name = visible(pictures.names[n])
        maps = [
            {
                "src": self._image(_heat(k.thumbs[n])),
                "alt": f"Anomaly map of {visible(method)} for {name}",
                "place": f"{100 * places[m, n]:.0f}",
            }
            for m, (method, k) in enumerate(kept.items())
        ]
        return {
            "name": name,
            "what": visible(what),
            "image": self._image(pictures.images[n], "jpeg"),
            "mask": self._image(pictures.masks[n], "png"),
            "maps": maps,
        }

    def _charts(self, method: str, kept: Kept, anomalous: npt.NDArray[np.bool_]) -> dict[str, str]:
        normal, other = kept.scores[~anomalous].tolist(), kept.scores[anomalous].tolist()
        histogram = histogram_svg(normal, other, f"Scores of {method}") if normal and other else ""
        roc = roc_svg(normal, other, f"ROC curve of {method}") if normal and other else ""
        self._left -= len(histogram) + len(roc)
        return {"method": method, "histogram": histogram, "roc": roc}

    def _image(self, content: bytes, kind: str = "jpeg") -> str:
        text = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        self._left -= len(text)
        return text


def choices(
    places: Floats, anomalous: npt.NDArray[np.bool_], kinds: Sequence[str]
) -> list[tuple[str, str, list[int]]]:
    """Chooses the images that tell most: ``(title, about, numbers of the images)``.

    Args:
        places: of each method's score of each image, its place among all images [M, N], 1 is the highest.
        anomalous: whether an image is [N].
        kinds: of each image.
    """
    mean, spread = places.mean(axis=0), np.ptp(places, axis=0)
    numbers = np.arange(len(kinds))
    found: list[tuple[str, str, list[int]]] = []
    for kind in sorted({k for k in kinds if k != "normal"}):
        own = numbers[[k == kind for k in kinds]]
        middle = own[np.argsort(np.abs(mean[own] - np.median(mean[own])), kind="stable")]
        found.append(
            (f"Typical: {kind}", "in the middle of what the methods' scores say", middle[:_EACH].tolist())
        )
    own = numbers[anomalous]
    missed = own[np.argsort(mean[own], kind="stable")][:_EACH].tolist()
    found.append(("Worst misses", "anomalous images that the methods score lowest", missed))
    own = numbers[~anomalous]
    alarms = own[np.argsort(-mean[own], kind="stable")][:_EACH].tolist()
    found.append(("Worst false alarms", "normal images that the methods score highest", alarms))
    if len(places) > 1:
        apart = np.argsort(-spread, kind="stable")[:_EACH].tolist()
        found.append(("Disagreement", "images on whose place the methods differ most", apart))
    return found


def places_of(scores: npt.NDArray[np.float32]) -> Floats:
    """Returns for each image the share of the others that score lower, ties counted half [N]."""
    lower = (scores[:, None] > scores[None, :]).sum(axis=1)
    same = (scores[:, None] == scores[None, :]).sum(axis=1) - 1
    return np.asarray((lower + same / 2) / max(len(scores) - 1, 1), dtype=np.float64)


# Black, violet, red, orange, light yellow: lightness alone tells low from high, also in print.
_STOPS = np.array(
    [[0, 0, 4], [58, 15, 110], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]], np.float64
)


def _heat(thumb: npt.NDArray[np.uint8]) -> bytes:
    """A map ``[H, W]`` in colours, as a JPEG file."""
    table = np.stack(
        [np.interp(np.arange(256), np.linspace(0, 255, len(_STOPS)), _STOPS[:, c]) for c in range(3)], axis=1
    ).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(table[thumb]).save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()
