"""LaTeX tables for a paper: booktabs, best in bold, second underlined, missing cells explained below.

In the row of means everything is bold that is statistically tied with the best, where a test is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.spec import PROTOCOLS, slug
from reports.bibliography import Bibliography, bibliography
from reports.leaderboard import MEAN, METRICS, Cell, Leaderboard, Ranking, split_title
from reports.statistics import compare
from reports.tex import Notes, document, escape, first, head, number, table

TABLES = {"detection": ("image_auroc",), "localisation": ("pixel_auroc", "aupro", "spro_0.05")}


def tables(board: Leaderboard, style: str = "tmlr", cite: bool = True) -> dict[str, str]:
    """Returns every table by file name, ``references.bib``, and ``all.tex``, which shows them all.

    Args:
        board: the measured numbers.
        style: name of a style, see ``reports.tex.STYLES``.
        cite: whether methods carry the key of their paper.
    """
    records = [record for ranking in board.rankings for record in ranking.records.values()]
    papers = bibliography(record.citation for record in records)
    files = {}
    for ranking in board.rankings:
        keys = _keys(ranking, papers) if cite else {}
        for kind, metrics in TABLES.items():
            name = f"{slug(ranking.dataset)}-{slug(ranking.name)}-{kind}.tex"
            files[name] = "\n".join(
                _table(ranking, metric, split, style, keys)
                for metric in metrics
                for split in ranking.splits
                if metric in ranking.metrics(split)
            )
    shown = document(style, list(files), "references" if cite and papers.text else "")
    return files | {"all.tex": shown, "references.bib": papers.text}


def ranks(cells: Sequence[Cell], digits: int = 1) -> list[int]:
    """Returns 1 for the best, 2 for the second of complete cells, as printed (ties together), else 0."""
    shown = [round(c.mean, digits) if c.mean is not None and c.have == c.want else None for c in cells]
    order = sorted({value for value in shown if value is not None}, reverse=True)[:2]
    return [order.index(value) + 1 if value in order else 0 for value in shown]


def told(cell: Cell) -> str:
    """The number, or why there is none; what a part of the seeds gave is told in words only."""
    if cell.have == cell.want and cell.mean is not None:
        return cell.text()
    some = "" if cell.mean is None else f", which give {cell.mean:.1f}"
    return f"{cell.reason} runs{some}" if " of " in cell.reason and cell.have else cell.reason


def _table(ranking: Ranking, metric: str, split: str, style: str, keys: Mapping[str, str]) -> str:
    protocol = PROTOCOLS[ranking.fingerprint.protocol]
    fingerprint = ranking.fingerprint
    seeds = f"{len(ranking.seeds)} seed" + (
        "s, mean and sample standard deviation" if len(ranking.seeds) > 1 else ""
    )
    badges = "".join(f" \\textbf{{{escape(badge)}}}." for badge in ranking.badges())
    kind = "" if split == "all" else f", {split_title(split)}"
    complete, scores = ranking.scores(split, metric)
    compared = compare(scores) if complete else None
    tied = None if compared is None else {m for m, tie in zip(complete, compared.tied, strict=True) if tie}
    native = ", evaluated at the masks' own size" if fingerprint.evaluation_resolution == "native" else ""
    bold = "" if tied is None else " Bold mean: not distinguishable from the best at 95 \\%."
    title = f"{escape(METRICS[metric])} (\\%) on {escape(ranking.dataset + kind, breaks=True)}"
    caption = (
        f"{title}; protocol {protocol.name}, {fingerprint.image_size} pixels{native}, {seeds} "
        f"(fingerprint \\texttt{{{escape(ranking.name)}}}).{bold}{badges}"
    )
    notes = Notes()
    rows: list[list[str] | str] = [
        ["Category", *(head(method, notes, keys.get(method, "")) for method in ranking.methods)]
    ]
    for category in (*ranking.split_categories(split), MEAN):
        cells = ranking.cells(category, split, metric)
        if category == MEAN:
            rows.append("\\midrule")
        places = ranks(cells)
        if category == MEAN and tied is not None:
            places = [int(method in tied) for method in ranking.methods]
        texts = [number(told(cell), rank, notes) for cell, rank in zip(cells, places, strict=True)]
        rows.append([first(category, notes), *texts])
    label = f"tab:{slug(ranking.dataset)}-{slug(ranking.name)}-{metric}-{slug(split)}".replace("_", "-")
    return table(style, caption, label, "l" + "r" * len(ranking.methods), rows, notes, title)


def _keys(ranking: Ranking, papers: Bibliography) -> dict[str, str]:
    """The citation key of each method that has one."""
    return {
        method: papers.keys[record.citation]
        for (method, _, _), record in ranking.records.items()
        if record.citation in papers.keys
    }
