"""Figures for a paper: PDF and SVG (vectors) and PNG of everything that the page draws, by matplotlib.

Of every ranking: speed against accuracy, average ranks with the critical difference, test image AUROC over
the epochs (where a protocol looks at it), and maps of all methods on the same images (as the ULSAD paper's
Figure 9); and the selection gap of all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness.errors import UserError
from harness.files import write_atomically
from harness.spec import slug
from harness.store import read_record, record_path
from reports.figures import groups
from reports.leaderboard import METRICS, Leaderboard, Ranking
from reports.names import visible
from reports.page.charts import pareto
from reports.page.gallery import choices, kept_maps, places_of
from reports.page.sections import identifier
from reports.page.verdict import costs_of, speed_points
from reports.statistics import rank_tests

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("pdf", "svg", "png")
# Okabe and Ito's colours, told apart by the colour-blind too; shapes and dashes repeat what they say.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_RC: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "ulsad-bench",
    "savefig.bbox": "tight",
    "text.parse_math": False,
}


def write_figures(board: Leaderboard, results: Path, folder: Path) -> int:
    """Writes every figure that the records allow; returns how many.

    Args:
        board: the measured numbers.
        results: folder of the records.
        folder: where to; files of the same names are replaced.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('Figures need matplotlib: pip install "ulsad-bench[figures]".') from error
    count = 0
    with matplotlib.rc_context(_RC):
        for name, figure in _figures(board, results):
            count += 1
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
    return count


def _figures(board: Leaderboard, results: Path) -> Iterator[tuple[str, Figure]]:
    for ranking in board.rankings:
        name = identifier(ranking)
        if figure := _speed(ranking):
            yield f"{name}-speed", figure
        for metric in ("image_auroc", "pixel_auroc", "aupro"):
            if figure := _ranks(ranking, metric):
                yield f"{name}-ranks-{metric}", figure
        for category in ranking.categories:
            if figure := _epochs(ranking, category, results):
                yield f"{name}-{slug(category)}-epochs", figure
            if figure := _maps(ranking, category, results):
                yield f"{name}-{slug(category)}-maps", figure
    if figure := _gap(board):
        yield "selection-gap", figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _speed(ranking: Ranking) -> Figure | None:
    costs = costs_of(ranking)
    points = speed_points(ranking, costs)
    if not points:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = _axes(4.2, 2.8)
    front = pareto(points)
    axes.plot([p.x for p in front], [p.y for p in front], color=_COLOURS[0], linewidth=1)
    # Names to the right and to the left by turns, from above, so that neighbours do not cover each other.
    for place, point in enumerate(sorted(points, key=lambda p: -p.y)):
        mark = "o" if point in front else "s"
        axes.plot(point.x, point.y, mark, color=_COLOURS[0 if point in front else 1], markersize=5)
        side: Any = {"xytext": (5, 2)} if place % 2 else {"xytext": (-5, 2), "ha": "right"}
        where = (point.x, point.y)
        axes.annotate(_short(point.name), where, textcoords="offset points", fontsize=7, **side)
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
    figure, axes = _axes(4.5, 0.9 + 0.2 * len(methods))
    for place, m in enumerate(order):
        depth = len(order) - place + 2
        axes.plot(
            [average[m], average[m], len(methods) + 0.2], [0, -depth, -depth], color="black", linewidth=0.7
        )
        label = f"{_short(methods[m])} ({average[m]:.2f})"
        axes.text(len(methods) + 0.3, -depth, label, va="center")
    for row, (first, last) in enumerate(groups([average[m] for m in order], found.critical)):
        ends = [average[order[first]] - 0.04, average[order[last]] + 0.04]
        axes.plot(ends, [-0.7 - 0.6 * row] * 2, color=_COLOURS[1], linewidth=3, solid_capstyle="butt")
    axes.set_xlim(0.8, len(methods) + 0.2)
    axes.xaxis.tick_top()
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.set_yticks([])
    title = f"{visible(ranking.dataset)}, average rank by {METRICS[metric]}"
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
            if isinstance(whole, str):
                continue
            seen = [
                (e.number, 100 * e.test_image_auroc) for e in whole.epochs if e.test_image_auroc is not None
            ]
            if len(seen) > 1:
                lines.append((method, seed, seen, whole.selected_epoch))
    if not lines:
        return None
    figure, axes = _axes(4.5, 2.6)
    for place, (method, seed, seen, selected) in enumerate(lines):
        colour = _COLOURS[list(ranking.methods).index(method) % len(_COLOURS)]
        label = _short(method) + (f", seed {seed}" if len(ranking.seeds) > 1 else "")
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
    from matplotlib.figure import Figure

    kept, pictures = kept_maps(results, ranking, category)
    if not kept or pictures is None:
        return None
    anomalous = np.array([kind != "normal" for kind in pictures.kinds])
    places = np.stack([places_of(k.scores) for k in kept.values()])
    typical = [
        n for title, _, own in choices(places, anomalous, pictures.kinds) if "Typical" in title for n in own
    ]
    if not typical:
        return None
    heads = ["image", "mask", *map(_short, kept)]
    figure = Figure(figsize=(0.85 * len(heads), 0.9 * len(typical)))
    for row, n in enumerate(typical):
        shown = [
            *(
                np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                for data in (pictures.images[n], pictures.masks[n])
            ),
            *(k.grey(n) for k in kept.values()),
        ]
        for column, picture in enumerate(shown):
            axes = figure.add_subplot(len(typical), len(heads), row * len(heads) + column + 1)
            axes.imshow(picture, cmap="inferno", vmin=0, vmax=255)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(heads[column], fontsize=5)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    return figure


def _gap(board: Leaderboard) -> Figure | None:
    rows: list[tuple[str, Sequence[float]]] = []
    for ranking in board.rankings:
        for method in ranking.methods:
            gaps = ranking.gaps(method)
            if gaps is not None:
                rows.append((f"{_short(method)} · {visible(ranking.dataset)}", gaps.reshape(-1).tolist()))
    if not rows:
        return None
    figure, axes = _axes(4.5, 0.7 + 0.25 * len(rows))
    for place, (_, points) in enumerate(rows):
        axes.plot(points, [-place] * len(points), "o", color=_COLOURS[5], markersize=3, alpha=0.6)
        axes.plot(float(np.mean(points)), -place, "D", color=_COLOURS[0], markersize=5)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows])
    axes.set_xlabel("selected minus last epoch, image AUROC in points (diamond: mean)")
    return figure


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= 30 else f"{shown[:29]}…"
