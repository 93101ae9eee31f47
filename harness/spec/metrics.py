"""The one table of metrics: what each is called, what it is of, and where people meet it.

Page, LaTeX, figures, terminal, CSV, baseline and check read it. A metric is added by a row here, and by its
value in :mod:`harness.metrics`, unless it follows from others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.spec.record import KINDS_MEAN

Level = Literal["image", "pixel", "both"]
# cell: what the page opens of a cell of its tables. detection, localisation: the LaTeX tables. terminal: at
# the end of a run, and of all. suites: tables and figures of suites. check: what `bench check` compares.
Where = Literal["page", "cell", "detection", "localisation", "terminal", "suites", "check"]
MAIN: tuple[Where, ...] = ("page", "cell", "terminal", "suites", "check")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        title: in tables and on the page.
        level: whether it is of images, of pixels, or a mean over metrics of both.
        where: the places that show it; CSV, JSON, Markdown and Parquet have all.
        unit: of what is shown; records hold shares in [0, 1].
        higher_is_better: the direction.
        of_kinds: whether its mean over the kinds of anomalies is the official number.
        optional: whether only some records have it, and no table has a column for it where none does.
        of: the metrics that it follows from; empty for one that is computed from scores and maps.
        follows: gives it from their values.
    """

    title: str
    level: Level
    where: tuple[Where, ...] = ()
    unit: str = "%"
    higher_is_better: bool = True
    of_kinds: bool = False
    optional: bool = False
    of: tuple[str, ...] = ()
    follows: Callable[..., float] | None = None

    @property
    def in_sentence(self) -> str:
        """The title within a sentence: ``image AUROC``, ``AUPRO``."""
        return self.title if self.title[:2].isupper() else self.title[0].lower() + self.title[1:]

    def derived(self, values: Mapping[str, float | None]) -> float | None:
        """Returns it from the values of others, ``None`` where one of them is missing or undefined."""
        if self.follows is None:
            return None
        parts = [values.get(name) for name in self.of]
        return None if None in parts else self.follows(*parts)


def _spro(limit: str, *where: Where) -> Metric:
    return Metric(f"sPRO (FPR ≤ {limit})", "pixel", where, of_kinds=True, optional=True)


# Of which ADer takes the mean (Zhang et al., arXiv:2406.03262).
_ADER = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")

METRICS: Mapping[str, Metric] = {
    "image_auroc": Metric("Image AUROC", "image", (*MAIN, "detection")),
    "pixel_auroc": Metric("Pixel AUROC", "pixel", (*MAIN, "localisation")),
    "aupro": Metric("AUPRO", "pixel", (*MAIN, "localisation")),
    "image_ap": Metric("Image AP", "image", ("cell",)),
    "image_f1max": Metric("Image F1-max", "image", ("cell",)),
    "pixel_ap": Metric("Pixel AP", "pixel", ("cell",)),
    "pixel_f1max": Metric("Pixel F1-max", "pixel", ("cell",)),
    "map_max_auroc": Metric("Image AUROC of the maps' maxima", "image", optional=True),
    "spro_0.05": _spro("0.05", "page", "cell", "terminal", "localisation"),
    "spro_0.01": _spro("0.01"),
    "spro_0.1": _spro("0.1"),
    "spro_0.3": _spro("0.3"),
    "spro_1": _spro("1"),
    "pixel_iou_max": Metric(
        "Pixel IoU-max", "pixel", ("cell",), of=("pixel_f1max",), follows=lambda f1: f1 / (2 - f1)
    ),
    "mad": Metric("mAD", "both", ("cell",), of=_ADER, follows=lambda *values: sum(values) / len(values)),
}
TITLES: Mapping[str, str] = {name: metric.title for name, metric in METRICS.items()}


def shown(where: Where) -> tuple[str, ...]:
    """Returns the names of the metrics that are shown somewhere, in the table's order."""
    return tuple(name for name, metric in METRICS.items() if where in metric.where)


def in_terminal(split: str) -> tuple[str, ...]:
    """Returns what the terminal shows of a split: of a kind of anomalies, detection alone."""
    return tuple(
        name
        for name in shown("terminal")
        if METRICS[name].of_kinds == (split == KINDS_MEAN)
        and (METRICS[name].level == "image" or split in ("all", KINDS_MEAN))
    )


def completed(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns a split's values with those that follow from them: records of earlier versions lack some."""
    found = dict(values)
    for name, metric in METRICS.items():
        if metric.follows is not None and name not in found and set(metric.of) <= values.keys():
            found[name] = metric.derived(values)
    return found
