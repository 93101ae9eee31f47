"""Evaluation at the size of the masks' files, with MVTec LOCO's table of defects where a dataset has one.

Maps are resized, and masks decoded, one by one and whenever a metric asks for them, so that of native size
nothing is kept but the sorted pixels of the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.common.parallel import in_threads
from harness.data.card import NORMAL
from harness.data.decoding import image_size, read_image, read_mask
from harness.data.defects import DefectTable
from harness.data.samples import Sample
from harness.metrics.exact import check_finite, image_metrics, split_metrics
from harness.metrics.spro import Annotated, Annotation, saturation_area, split_spro
from harness.spec.record import KINDS_MEAN


def read_annotation(path: Path, table: DefectTable) -> Annotation:
    """Reads a mask as the annotation of one defect, which its pixel value names.

    Raises:
        UserError: the file cannot be read, marks nothing, or has values that are not those of one defect.
    """
    image = read_image(path)
    if image.mode not in ("1", "L") and not image.mode.startswith("I"):
        raise UserError(f"{path} has colours: a mask whose pixel value names a defect has one channel.")
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    mask = values != 0
    inside = values[mask]
    if not len(inside):
        raise UserError(f"{path} marks nothing: every mask must mark one defect of {table.path}.")
    low, high = int(inside.min()), int(inside.max())
    if low != high:
        raise UserError(f"{path} has the pixel values {low} and {high}: every mask must mark one defect.")
    if low not in table.defects:
        raise UserError(f"{path} has the pixel value {low}, which is no 'pixel_value' in {table.path}.")
    defect = table.defects[low]
    area = saturation_area(len(inside), defect.saturation_threshold, defect.relative_saturation)
    return Annotation(mask, area)


class Native:
    """The test images of one category at the size of their masks, or their own where they have none.

    Attributes:
        masks: the united mask of each image, 0 and 1.
        defects: SHA-256 of the table of defects, empty without one.
    """

    def __init__(self, samples: Sequence[Sample], table: DefectTable | None = None) -> None:
        self._samples, self._table = samples, table
        self.defects = table.sha256 if table else ""
        files = [sample.masks[0] if sample.masks else sample.image for sample in samples]
        self._sizes = in_threads(image_size, files)
        self.masks: Sequence[NDArray[np.uint8]] = _Lazy(len(samples), self._mask)

    def check(self) -> None:
        """Reads every mask once.

        Raises:
            UserError: one cannot be read, differs in size from another of its image, or marks no defect
                of the table.
        """

        def one(index: int) -> None:
            self._mask(index)
            self._annotations(index)

        in_threads(one, range(len(self._samples)))

    def maps(self, maps: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Returns maps of the input's size, each resized bilinearly when asked for; pixels have centres."""

        def make(index: int) -> NDArray[Any]:
            height, width = self._sizes[index]
            return np.asarray(cv2.resize(maps[index], (width, height), interpolation=cv2.INTER_LINEAR))

        return _Lazy(len(maps), make)

    def metrics(
        self,
        scores: NDArray[np.float32],
        maps: NDArray[np.float32],
        splits: Sequence[str],
        kinds: Sequence[str],
    ) -> dict[str, dict[str, float]]:
        """Returns all metrics, and where there is a table of defects those of LOCO's official code too.

        These are sPRO, and ``map_max_auroc``: the image AUROC of the maxima of the maps of native size. The
        other image metrics are of the method's own scores.

        Args:
            scores: ``[N]``.
            maps: ``[N, S, S]``, of the input's size.
            splits: kinds of anomalies that the category has, as for ``split_metrics``.
            kinds: those that it should have; what is official is undefined in the mean where one is missing.
        """
        # Where maps are made smaller, a single bad value might not be seen any more.
        check_finite(maps, "anomaly map")
        native = self.maps(maps)
        found = split_metrics(scores, native, [sample.kind for sample in self._samples], self.masks, splits)
        if self._table and kinds:
            spro = split_spro(self._annotated(native), kinds)
            auroc = self._auroc_of_maxima(native, ["all", *kinds])
            mean = sum(auroc[kind] for kind in kinds) / len(kinds)
            found[KINDS_MEAN] = {"map_max_auroc": mean} | spro.pop("mean")
            found["all"]["map_max_auroc"] = auroc["all"]
            for split in set(spro) & set(splits):
                found[split] |= {"map_max_auroc": auroc[split]} | spro[split]
        return found

    def _auroc_of_maxima(
        self, native: Sequence[NDArray[np.float32]], splits: Sequence[str]
    ) -> dict[str, float]:
        maxima = np.array([one.max() for one in native])
        kinds = np.array([sample.kind for sample in self._samples])
        found = {}
        for split in splits:
            rows = (kinds == NORMAL) | (kinds == split) | (split == "all")
            found[split] = image_metrics(maxima[rows], kinds[rows] != NORMAL)["image_auroc"]
        return found

    def _mask(self, index: int) -> NDArray[np.uint8]:
        united = np.zeros(self._sizes[index], np.uint8)
        for path in self._samples[index].masks:
            mask = read_mask(path)
            if mask.shape != united.shape:
                first = self._samples[index].masks[0].name
                raise UserError(f"{path} has another size than {first}, a mask of the same image.")
            united |= mask
        return united

    def _annotations(self, index: int) -> list[Annotation]:
        if self._table is None:
            return []
        return [read_annotation(path, self._table) for path in self._samples[index].masks]

    def _annotated(self, maps: Sequence[NDArray[np.float32]]) -> Iterator[Annotated]:
        for index, sample in enumerate(self._samples):
            yield Annotated(maps[index], sample.kind, self._annotations(index))


class _Lazy(Sequence[NDArray[Any]]):
    """Arrays that are made whenever they are asked for."""

    def __init__(self, count: int, make: Callable[[int], NDArray[Any]]) -> None:
        self._rows, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._rows[index])
