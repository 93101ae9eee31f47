"""Test images with every method's map beside the mask, from runs that kept their maps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.common.files import write_atomically
from harness.common.text import visible
from harness.results.artefacts import has_pictures, pictures_path, view_path
from harness.results.category_pictures import Pictures, load_pictures
from harness.results.map_views import View, load_view
from harness.results.store import record_path
from harness.spec.names import slug
from reports.page.charts import histogram_svg
from reports.page.curves import Rates, area, curve_svg, roc, until
from reports.page.thumbnails import heat, outlined, thumbnail
from reports.rankings.ranking import Ranking

# Bytes of images and charts that a page carries; what comes after is left out, and the page says so.
_BUDGET = 2_500_000
# How many images of a kind of choice are shown.
_EACH = 3
# Where full pictures lie beside the page.
FOLDER = "pictures"
_PICTURE = re.compile(r".*-(?P<sum>[0-9a-f]{16})\.jpg")
# False-positive rate up to which AUPRO is integrated.
_LIMIT = 0.3
# Sides of thumbnails in pixels.
_PHOTO, _MAP = 160, 96

Floats = npt.NDArray[np.float64]


def kept_maps(results: Path, ranking: Ranking, category: str) -> tuple[dict[str, View], Pictures | None]:
    """Returns the maps of each method's first seed that has them, and the images that belong to them.

    Args:
        results: folder of the records.
        ranking: whose runs.
        category: of its dataset.
    """
    kept: dict[str, View] = {}
    every, shown = None, None
    # Without pictures there is no gallery: one look instead of one for every run.
    if not has_pictures(results / slug(ranking.dataset) / slug(category)):
        return kept, shown
    for method in ranking.methods:
        for seed in ranking.seeds:
            record = ranking.records.get((method, category, seed))
            if record is None or record.outcome != "ok":
                continue
            path = record_path(results, record.spec, record.key)
            found = load_view(view_path(path))
            if found is None:
                continue
            size, view = record.spec.image_size, record.fingerprint.view
            every = every or load_pictures(pictures_path(path, record.identity.data, size, view))
            own = found.own(every) if every else None
            # Side by side stand maps of the same images; not all runs test on the same.
            if own is not None and (shown is None or own.names == shown.names):
                kept[method], shown = found, own
                break
    return kept, shown


class Gallery:
    """Fills a page with pictures up to a limit of bytes.

    Attributes:
        files: the same pictures in full size, by their names in :data:`FOLDER`.
    """

    def __init__(self, results: Path | None) -> None:
        self._results = results
        self._left = _BUDGET
        self.files: dict[str, bytes] = {}

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

    def _category(self, category: str, kept: dict[str, View], pictures: Pictures) -> dict[str, Any]:
        anomalous = np.array([kind != "normal" for kind in pictures.kinds])
        places = np.stack([places_of(k.scores) for k in kept.values()])
        groups = []
        for title, about, chosen in gallery_choices(places, anomalous, pictures.kinds):
            rows = [self._row(category, n, kept, places, pictures) for n in chosen]
            if rows:
                groups.append({"title": title, "about": about, "rows": rows})
        return {
            "name": category,
            "methods": list(kept),
            "groups": groups,
            "charts": [self._charts(method, k, anomalous) for method, k in kept.items()],
        }

    def _row(
        self, category: str, n: int, kept: dict[str, View], places: Floats, pictures: Pictures
    ) -> dict[str, Any]:
        kind, defect = pictures.kinds[n], pictures.defects[n]
        what = (
            kind
            if kind == "normal" or not defect or defect.startswith(kind)
            else f"{kind}: {defect.replace('_', ' ')}"
        )
        name = visible(pictures.names[n])
        photo, mask = pictures.images[n], pictures.masks[n]
        maps = []
        for m, (method, k) in enumerate(kept.items()):
            full = heat(k.grey(n))
            maps.append(
                self._picture(full, thumbnail(full, _MAP), f"{category}-{n}-{method}")
                | {
                    "alt": f"Anomaly map of {visible(method)} for {name}",
                    "place": f"{100 * places[m, n]:.0f}",
                }
            )
        return {
            "name": name,
            "what": visible(what),
            "image": self._picture(photo, thumbnail(photo, _PHOTO), f"{category}-{n}-image"),
            "mask": self._picture(outlined(photo, mask), thumbnail(mask, _PHOTO), f"{category}-{n}-outline"),
            "maps": maps,
        }

    def _charts(self, method: str, kept: View, anomalous: npt.NDArray[np.bool_]) -> dict[str, Any]:
        normal, other = kept.scores[~anomalous].tolist(), kept.scores[anomalous].tolist()
        svgs: list[str] = []
        areas: list[str] = []

        def add(curve: Rates, y_title: str, kind: str, name: str) -> None:
            svgs.append(curve_svg(curve, y_title, f"{kind} of {method}"))
            areas.append(f"{name} {100 * area(curve):.1f}")

        if normal and other:
            svgs.append(histogram_svg(normal, other, f"Scores of {method}"))
            add(roc(normal, other), "TPR of images", "ROC curve of images", "image AUROC")
        if kept.curve.shape[1]:
            false, true, overlap = kept.curve.astype(np.float64)
            add(np.stack([false, true]), "TPR of pixels", "ROC curve of pixels", "pixel AUROC")
            add(until(np.stack([false, overlap]), _LIMIT), "overlap (PRO)", "PRO curve", "AUPRO")
        self._left -= sum(map(len, svgs))
        return {"method": method, "svgs": svgs, "areas": ", ".join(areas)}

    def _picture(self, full: bytes, shown: str, name: str) -> dict[str, str]:
        """A thumbnail's address and that of the full picture, which becomes a file."""
        self._left -= len(shown)
        file = f"{slug(name)[:80]}-{_sum(full)}.jpg"
        self.files[file] = full
        return {"src": shown, "full": f"{FOLDER}/{file}"}


def write_pictures(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes full pictures, and removes those of earlier reports; other files stay.

    A picture's name ends in the sum of its content: so one that is there already is the same, and what
    carries another name or was changed is nobody's but its owner's.

    Raises:
        OSError: the folder cannot be made or written.
    """
    old = {path.name: path for path in folder.glob("*.jpg")} if folder.is_dir() else {}
    for name, content in files.items():
        if name not in old:
            write_atomically(folder / name, content)
    for name, path in old.items():
        found = _PICTURE.fullmatch(name)
        # Of two reports at once the other may have removed it.
        with suppress(FileNotFoundError):
            if name not in files and found and _sum(path.read_bytes()) == found["sum"]:
                path.unlink()
    if old and not files and not any(folder.iterdir()):
        folder.rmdir()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def gallery_choices(
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
