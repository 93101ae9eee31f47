"""Figures for a paper: PDF and SVG (vectors) and PNG of everything that the page draws, by matplotlib.

Of every ranking: speed against accuracy, average ranks with the critical difference, test image AUROC over
the epochs (where a protocol looks at it), and maps of all methods on the same images (as the ULSAD paper's
Figure 9); the selection gap of all; and what suites are for, see :mod:`reports.figures.suites`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.common.errors import UserError, nearest
from harness.common.files import write_atomically
from harness.common.text import visible
from harness.results.store import Damaged, read_record, record_path
from harness.spec.metrics import METRICS, shown
from harness.spec.names import slug
from reports.figures.style import COLOURS, RC, axes_of, photos, picture_rows, shortened, typical
from reports.figures.suites import suite_figures
from reports.page.charts import pareto
from reports.page.critical_difference import tied_groups
from reports.page.gallery import kept_maps
from reports.page.sections import identifier
from reports.page.verdict import costs_of, speed_points
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Ranking
from reports.rankings.statistics import rank_tests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("pdf", "svg", "png")
_DASHES = ("-", "--", "-.", ":")
# What can be asked for by name. Figures of the paper are drawn from the records of their suites.
FIGURES = (
    *("figure-5", "figure-6", "figure-7", "figure-8", "figure-9", "contamination"),
    *("speed", "ranks", "epochs", "selection-gap"),
)

# Whose records the paper's figures are drawn from.
_SUITES = {
    "figure-5": "attention",
    "figure-6": "maps",
    "figure-7": "backbones",
    "figure-8": "quantiles",
    "figure-9": "maps",
}


def chosen_figures(text: str) -> frozenset[str]:
    """Returns the figures that ``all`` or ``figure-7,contamination`` ask for.

    Raises:
        UserError: there is no such figure.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in ("all", *FIGURES):
            raise UserError(f"There is no figure '{name}'. {nearest(name, ['all', *FIGURES])}")
    return frozenset(FIGURES if "all" in names else names)


def write_figures(
    board: Leaderboard, results: Path, folder: Path, wanted: Collection[str] = FIGURES
) -> list[str]:
    """Writes every figure that is wanted and that the records allow; returns their names.

    Args:
        board: the measured numbers.
        results: folder of the records.
        folder: where to; files of the same names are replaced.
        wanted: of :data:`FIGURES`.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('Figures need matplotlib: pip install "ulsad-bench[figures]".') from error
    names = []
    with matplotlib.rc_context(RC):
        for name, figure in _figures(board, results, wanted):
            names.append(name)
            for kind in KINDS:
                buffer = io.BytesIO()
                # Without a date the same records give the same bytes.
                stamp = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
                figure.savefig(buffer, format=kind, dpi=300, metadata=stamp)
                try:
                    write_atomically(folder / f"{name}.{kind}", buffer.getvalue())
                except OSError as error:
                    reason = error.strerror or error
                    raise UserError(f"No figures can be written to {folder} ({reason}).") from error
    return names


def undrawn(wanted: Collection[str], names: Collection[str]) -> list[str]:
    """Returns what each figure of the paper needs that was asked for, not just with all, and is not drawn."""
    if {*FIGURES} <= {*wanted}:
        return []
    return [
        f"No record allows {figure}: `bench run --suite {suite}` makes those that it needs."
        for figure, suite in _SUITES.items()
        if figure in wanted and not any(name.startswith(figure) for name in names)
    ]


def _figures(board: Leaderboard, results: Path, wanted: Collection[str]) -> Iterator[tuple[str, Figure]]:
    for ranking in board.rankings:
        name = identifier(ranking)
        if "speed" in wanted and (figure := _speed(ranking)):
            yield f"{name}-speed", figure
        for metric in shown("suites") if "ranks" in wanted else ():
            if figure := _ranks(ranking, metric):
                yield f"{name}-ranks-{metric}", figure
        for category in ranking.categories:
            if "epochs" in wanted and (figure := _epochs(ranking, category, results)):
                yield f"{name}-{slug(category)}-epochs", figure
            if "figure-9" in wanted and (figure := _maps(ranking, category, results)):
                yield f"figure-9-{name}-{slug(category)}", figure
    if "selection-gap" in wanted and (figure := _gap(board)):
        yield "selection-gap", figure
    yield from suite_figures(board, results, wanted)


def _speed(ranking: Ranking) -> Figure | None:
    costs = costs_of(ranking)
    points = speed_points(ranking, costs)
    if not points:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = axes_of(4.2, 2.8)
    front = pareto(points)
    axes.plot([p.x for p in front], [p.y for p in front], color=COLOURS[0], linewidth=1)
    # Names to the right and to the left by turns, from above, so that neighbours do not cover each other, but
    # inwards at the ends of the axis, so that they do not cover its numbers.
    low, high = (math.log(end(p.x for p in points)) for end in (min, max))
    for place, point in enumerate(sorted(points, key=lambda p: -p.y)):
        along = (math.log(point.x) - low) / (high - low) if high > low else 0.5
        right = along < 0.35 or (along <= 0.65 and place % 2 == 1)
        mark = "o" if point in front else "s"
        axes.plot(point.x, point.y, mark, color=COLOURS[0 if point in front else 1], markersize=5)
        side: Any = {"xytext": (5, 2)} if right else {"xytext": (-5, 2), "ha": "right"}
        where = (point.x, point.y)
        axes.annotate(shortened(point.name), where, textcoords="offset points", fontsize=7, **side)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"images per second ({next(iter(costs.values())).machine})")
    axes.set_ylabel("image AUROC in %")
    axes.set_title(visible(ranking.dataset), loc="left")
    return figure


def _ranks(ranking: Ranking, metric: str) -> Figure | None:
    methods, scores = ranking.scores("all", metric)
    found = rank_tests(scores)
    if found is None:
        return None
    average = [float(rank) for rank in found.average]
    order = sorted(range(len(methods)), key=lambda m: (average[m], methods[m]))
    figure, axes = axes_of(4.5, 0.9 + 0.2 * len(methods))
    for place, m in enumerate(order):
        depth = len(order) - place + 2
        axes.plot(
            [average[m], average[m], len(methods) + 0.2], [0, -depth, -depth], color="black", linewidth=0.7
        )
        label = f"{shortened(methods[m])} ({average[m]:.2f})"
        axes.text(len(methods) + 0.3, -depth, label, va="center")
    for row, (first, last) in enumerate(tied_groups([average[m] for m in order], found.critical)):
        ends = [average[order[first]] - 0.04, average[order[last]] + 0.04]
        axes.plot(ends, [-0.7 - 0.6 * row] * 2, color=COLOURS[1], linewidth=3, solid_capstyle="butt")
    axes.set_xlim(0.8, len(methods) + 0.2)
    axes.xaxis.tick_top()
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.set_yticks([])
    title = f"{visible(ranking.dataset)}, average rank by {METRICS[metric].title}"
    title += f", critical difference {found.critical:.2f}"
    axes.set_title(title, loc="left", pad=18)
    return figure


def _epochs(ranking: Ranking, category: str, results: Path) -> Figure | None:
    """Test image AUROC over the epochs: what is seen, and chosen from, where the test set is looked at."""
    lines = []
    for method in ranking.methods:
        for seed in ranking.seeds:
            record = ranking.records.get((method, category, seed))
            if record is None or record.outcome != "ok" or not record.metrics_last:
                continue
            whole = read_record(record_path(results, record.spec, record.key))
            if isinstance(whole, Damaged):
                continue
            seen = [
                (e.number, 100 * e.test_image_auroc) for e in whole.epochs if e.test_image_auroc is not None
            ]
            if len(seen) > 1:
                lines.append((method, seed, seen, whole.selected_epoch))
    if not lines:
        return None
    figure, axes = axes_of(4.5, 2.6)
    for place, (method, seed, seen, selected) in enumerate(lines):
        colour = COLOURS[list(ranking.methods).index(method) % len(COLOURS)]
        label = shortened(method) + (f", seed {seed}" if len(ranking.seeds) > 1 else "")
        dash = _DASHES[place % len(_DASHES)]
        axes.plot(*zip(*seen, strict=True), dash, color=colour, linewidth=0.9, label=label)
        chosen = [point for point in seen if point[0] == selected]
        if chosen:
            axes.plot(*chosen[0], "o", color=colour, markersize=5)
    axes.set_xlabel("epoch (dot: the one selected on test data)")
    axes.set_ylabel("test image AUROC in %")
    axes.set_title(f"{visible(ranking.dataset)}, {visible(category)}", loc="left")
    axes.legend(frameon=False, fontsize=7)
    return figure


def _maps(ranking: Ranking, category: str, results: Path) -> Figure | None:
    kept, pictures = kept_maps(results, ranking, category)
    if not kept or pictures is None:
        return None
    chosen = typical(pictures, [k.scores for k in kept.values()])
    rows = [[*photos(pictures, n), *(k.grey(n) for k in kept.values())] for n in chosen]
    return picture_rows(["image", "mask", *map(shortened, kept)], rows) if rows else None


def _gap(board: Leaderboard) -> Figure | None:
    rows: list[tuple[str, Sequence[float]]] = []
    for ranking in board.rankings:
        for method in ranking.methods:
            gaps = ranking.gaps(method)
            if gaps is not None:
                rows.append((f"{shortened(method)} · {visible(ranking.dataset)}", gaps.reshape(-1).tolist()))
    if not rows:
        return None
    figure, axes = axes_of(4.5, 0.7 + 0.25 * len(rows))
    for place, (_, points) in enumerate(rows):
        axes.plot(points, [-place] * len(points), "o", color=COLOURS[5], markersize=3, alpha=0.6)
        axes.plot(float(np.mean(points)), -place, "D", color=COLOURS[0], markersize=5)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows])
    axes.set_xlabel("selected minus last epoch, image AUROC in points (diamond: mean)")
    return figure
