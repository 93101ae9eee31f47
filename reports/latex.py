"""LaTeX tables for a paper: booktabs, best in bold, second underlined, missing cells explained.

In the row of means everything is bold that cannot be told from the best, where a test is possible.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.spec import PROTOCOLS, slug
from reports.leaderboard import MEAN, METRICS, Cell, Leaderboard, Ranking, split_title
from reports.statistics import compare

TABLES = {"detection": ("image_auroc",), "localisation": ("pixel_auroc", "aupro", "spro_0.05")}
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
}


def escape(text: str) -> str:
    """Returns text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def tables(board: Leaderboard) -> dict[str, str]:
    """Returns every table by file name, and ``all.tex``, a document that shows them all."""
    files = {}
    for ranking in board.rankings:
        for kind, metrics in TABLES.items():
            name = f"{slug(ranking.dataset)}-{slug(ranking.name)}-{kind}.tex"
            files[name] = "\n".join(
                _table(ranking, metric, split)
                for metric in metrics
                for split in ranking.splits
                if metric in ranking.metrics(split)
            )
    body = "\n".join(f"\\input{{{name.removesuffix('.tex')}}}" for name in files)
    files["all.tex"] = (
        "\\documentclass{article}\n\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    return files


def ranks(cells: Sequence[Cell], digits: int = 1) -> list[int]:
    """Returns 1 for the best, 2 for the second of complete cells, as printed (ties together), else 0."""
    shown = [round(c.mean, digits) if c.mean is not None and c.have == c.want else None for c in cells]
    order = sorted({value for value in shown if value is not None}, reverse=True)[:2]
    return [order.index(value) + 1 if value in order else 0 for value in shown]


def _table(ranking: Ranking, metric: str, split: str) -> str:
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
    caption = (
        f"{escape(METRICS[metric])} (\\%) on {escape(ranking.dataset)}{escape(kind)}; "
        f"protocol {protocol.name}, {fingerprint.image_size} pixels{native}, {seeds} "
        f"(fingerprint \\texttt{{{escape(ranking.name)}}}).{bold}{badges}"
    )
    header = " & ".join(["Category", *(escape(method) for method in ranking.methods)])
    rows, missing = [], []
    for category in (*ranking.split_categories(split), MEAN):
        cells = [ranking.cell(method, category, split, metric) for method in ranking.methods]
        if category == MEAN:
            rows.append("\\midrule")
        places = ranks(cells)
        if category == MEAN and tied is not None:
            places = [int(method in tied) for method in ranking.methods]
        texts = [_cell(cell, rank) for cell, rank in zip(cells, places, strict=True)]
        rows.append(" & ".join([escape(category), *texts]) + r" \\")
        missing += [
            f"{method} on {category}: {cell.reason}"
            for method, cell in zip(ranking.methods, cells, strict=True)
            if cell.reason and category != MEAN
        ]
    note = f"\n\\par\\smallskip\\footnotesize {escape('; '.join(missing))}." if missing else ""
    label = f"tab:{slug(ranking.dataset)}-{slug(ranking.name)}-{metric}-{split}".replace("_", "-")
    return (
        f"\\begin{{table}}[htbp]\n\\centering\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(ranking.methods)}}}\n\\toprule\n{header} \\\\\n\\midrule\n"
        + "\n".join(rows)
        + f"\n\\bottomrule\n\\end{{tabular}}{note}\n\\end{{table}}\n"
    )


def _cell(cell: Cell, rank: int) -> str:
    if cell.mean is None:
        return escape(cell.reason) if " of " in cell.reason else "--"
    number = f"{cell.mean:.1f}"
    number = f"\\textbf{{{number}}}" if rank == 1 else f"\\underline{{{number}}}" if rank == 2 else number
    return number + (f" {{\\scriptsize $\\pm$ {cell.std:.1f}}}" if cell.std is not None else "")
