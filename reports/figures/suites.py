"""Figures of the paper that suites fill (5 to 8), and of contamination; all but 5 and 6 from records alone.

Figure 5 shows how much attention each position gets, as a mean over the queries: of the true features (A,
eq. 3) and of the global branch (Â, eq. 4). Figure 6 shows the maps of the two branches and what is made of
them. Both need ``keep = ["maps", "parts"]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.common.text import visible
from harness.results.artefacts import parts_path, pictures_path, view_path
from harness.results.category_pictures import load_pictures
from harness.results.map_views import load_view
from harness.results.maps import DamagedMapsError, load_parts
from harness.results.store import record_path
from harness.spec.metrics import METRICS
from harness.spec.names import slug
from reports.figures.style import COLOURS, MARKS, axes_of, photos, picture_rows, shortened, typical
from reports.page.sections import identifier
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Ranking
from reports.rankings.scores import MEAN
from reports.rankings.variants import Family, contaminated
from reports.tables.suites import BACKBONES, QUANTILES, SCORES, VariantGroup, variant_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ATTENTION = {"attention": "attention of A", "attention_global": "attention of Â"}
_BRANCHES = {"local": "local map", "global": "global map"}


def suite_figures(board: Leaderboard, results: Path, wanted: Collection[str]) -> Iterator[tuple[str, Figure]]:
    """Yields the wanted figures that there are records for, with their names."""
    for figure, heads in (("figure-5", _ATTENTION), ("figure-6", _BRANCHES)):
        for ranking in board.rankings if figure in wanted else ():
            for category in ranking.categories:
                if drawn := _parts(ranking, category, results, heads):
                    yield f"{figure}-{identifier(ranking)}-{slug(category)}", drawn
    if "figure-7" in wanted:
        for name, group in _numbered(variant_groups(board, BACKBONES)):
            yield f"figure-7-{name}", _backbones(group)
    if "figure-8" in wanted:
        for name, group in _numbered(variant_groups(board, QUANTILES)):
            yield f"figure-8-{name}", _quantiles(group)
    if "contamination" in wanted:
        for family in contaminated(board):
            yield f"contamination-{slug(family.title)}", _contamination(family)


def _numbered(found: Iterable[VariantGroup]) -> Iterator[tuple[str, VariantGroup]]:
    """Yields groups with names: that of the ranking, with a number where it has several."""
    seen: Counter[str] = Counter()
    for group in found:
        name = identifier(group.ranking)
        seen[name] += 1
        yield name + (f"-{seen[name]}" if seen[name] > 1 else ""), group


def _parts(ranking: Ranking, category: str, results: Path, heads: dict[str, str]) -> Figure | None:
    """Image, mask, some of the kept parts, and for the branches the map that they give."""
    for record in ranking.records.values():
        if record.spec.category != category or record.outcome != "ok":
            continue
        path = record_path(results, record.spec, record.key)
        kept = load_view(view_path(path))
        size, view = record.spec.image_size, record.fingerprint.view
        pictures = load_pictures(pictures_path(path, record.identity.data, size, view))
        raw = _raw(path)
        pictures = kept.own(pictures) if kept and pictures else None
        if kept is None or pictures is None or not heads.keys() <= raw.keys():
            continue
        shown = {name: _grey(raw[name], each=heads is _ATTENTION) for name in heads}
        rows = [
            [
                *photos(pictures, n),
                *(maps[n] for maps in shown.values()),
                *([kept.grey(n)] if heads is _BRANCHES else []),
            ]
            for n in typical(pictures, [kept.scores])
        ]
        titles = ["image", "mask", *heads.values(), *(["both"] if heads is _BRANCHES else [])]
        return picture_rows(titles, rows) if rows else None
    return None


def _raw(record: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """The kept parts beside a record; none where there are none."""
    try:
        return load_parts(parts_path(record)).raw
    except DamagedMapsError:
        return {}


def _grey(maps: npt.NDArray[np.float32], each: bool) -> npt.NDArray[np.uint8]:
    """Maps ``[N, h, w]`` on a scale of grey: one for all of them, or for each its own."""
    axis = (1, 2) if each else None
    low, high = (np.quantile(maps, q, axis=axis, keepdims=True) for q in (0.5, 0.999))
    spread = np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.asarray(np.clip((maps - low) / spread, 0, 1) * 255, np.uint8)


def _title(group: VariantGroup) -> str:
    return visible(" · ".join([group.ranking.dataset, group.ranking.name, *group.ranking.badges()]))


def _backbones(group: VariantGroup) -> Figure:
    """The scores of each backbone with their deviation over seeds."""
    names = list(group.methods)
    labels = [shortened(str(name[0])) for name in names]
    # Wide enough that no name runs into the next.
    figure, axes = axes_of(max(4.5, 0.085 * len(names) * max(map(len, labels))), 2.6)
    for place, metric in enumerate(SCORES):
        cells = [group.ranking.cell(group.methods[name], MEAN, "all", metric) for name in names]
        there = [(x, c.mean, c.std or 0.0) for x, c in enumerate(cells) if c.mean is not None]
        if there:
            x, y, spread = zip(*there, strict=True)
            at = [value + 0.12 * (place - 1) for value in x]
            axes.errorbar(
                at,
                y,
                spread,
                fmt=MARKS[place],
                color=COLOURS[place],
                markersize=5,
                capsize=2,
                label=METRICS[metric].title,
            )
    axes.set_xticks(range(len(names)), labels)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel("score in %")
    axes.set_title(_title(group), loc="left")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _quantiles(group: VariantGroup) -> Figure:
    """Of each score a square for every α and β, with its value."""
    from matplotlib.figure import Figure

    alphas, betas = (sorted({key[i] for key in group.methods}) for i in (0, 1))
    figure = Figure(figsize=(0.55 * len(alphas) * len(SCORES) + 1.5, 0.3 * len(betas) + 0.9))
    for place, metric in enumerate(SCORES):
        values = np.full((len(betas), len(alphas)), np.nan)
        for (alpha, beta), method in group.methods.items():
            mean = group.ranking.cell(method, MEAN, "all", metric).mean
            values[betas.index(beta), alphas.index(alpha)] = np.nan if mean is None else mean
        axes = figure.add_subplot(1, len(SCORES), place + 1)
        axes.imshow(values, cmap="cividis", aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            if value == value:
                middle = (np.nanmin(values) + np.nanmax(values)) / 2
                colour = "black" if value > middle else "white"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=6)
        axes.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
        axes.set_yticks(range(len(betas)), [f"{b:g}" for b in betas] if place == 0 else [])
        axes.set_xlabel("α")
        if place == 0:
            axes.set_ylabel("β")
        axes.set_title(f"{METRICS[metric].title} in %", loc="left")
    figure.suptitle(_title(group), x=0.12, ha="left", fontsize=8)
    figure.subplots_adjust(wspace=0.08, top=0.8)
    return figure


def _contamination(family: Family) -> Figure:
    """Image AUROC against the share of anomalous training images."""
    shares = sorted(family.variants)
    figure, axes = axes_of(4.5, 2.6)
    for place, method in enumerate(family.methods):
        points = [(100 * s, family.cell(s, method, "image_auroc").mean) for s in shares]
        there = [(x, y) for x, y in points if y is not None]
        if there:
            look = f"{MARKS[place % len(MARKS)]}-"
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(*zip(*there, strict=True), look, color=colour, markersize=4, label=shortened(method))
    axes.set_xticks([100 * share for share in shares])
    axes.set_xlabel("anomalous images among the training images in %")
    axes.set_ylabel("image AUROC in %")
    axes.set_title(visible(family.title), loc="left")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
