"""LaTeX tables for a paper: booktabs, best in bold, second underlined, missing cells explained below.

In the row of means everything is bold that is statistically tied with the best, where a test is possible.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.spec.metrics import METRICS, shown
from harness.spec.names import slug
from harness.spec.protocols import PROTOCOLS
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Ranking, ranks, split_title, told
from reports.rankings.scores import MEAN
from reports.rankings.statistics import compare
from reports.tables.bibliography import Bibliography, bibliography
from reports.tables.latex import Notes, document, escape, first, head, number, table

TABLES = {"detection": shown("detection"), "localisation": shown("localisation")}


def tables(board: Leaderboard, style: str = "tmlr", cite: bool = True) -> dict[str, str]:
    """Returns every table by file name, ``references.bib``, and ``all.tex``, which shows them all.

    Args:
        board: the measured numbers.
        style: name of a style, see ``reports.tables.latex.STYLES``.
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
    title = f"{escape(METRICS[metric].title)} (\\%) on {escape(ranking.dataset + kind, breaks=True)}"
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
