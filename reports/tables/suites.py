"""Tables of the suites, from whichever records there are: ablations, backbones, leaks, contamination."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.spec.metrics import METRICS, shown
from harness.spec.protocols import PROTOCOLS
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Cell, Ranking, ranks, told
from reports.rankings.scores import MEAN
from reports.rankings.variants import LEAKS, Change, changes, contaminated, leaks
from reports.tables.block_table import Block, Sheet, TableLine
from reports.tables.efficiency import TITLE, efficiency

SCORES = shown("suites")
_METHOD = "ulsad"
_PAPER = "of Patra and Ben Taieb (TMLR 2024)"

Config = Mapping[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Ablation:
    """Settings of ULSAD that are compared, all others being equal.

    Attributes:
        varied: names of the hyper-parameters that tell rows apart.
        key: what stands for them in a configuration, ``None`` where it is no row.
        labels: heads of the columns that say what a row is.
        rows: keys of the paper's rows, with their labels; empty for whichever there are.
        least: rows that must be there.
    """

    varied: frozenset[str]
    key: Callable[[Config], Key | None]
    labels: tuple[str, ...]
    rows: Mapping[Key, tuple[str, ...]]
    least: int = 2


def _component(config: Config) -> Key:
    """λ_l, λ_g and the losses; of the local branch alone there is only its own."""
    if config["local_only"]:
        return (float(config["lambda_l"]), None, True, False, "off")
    losses = (config["loss_pl"], config["loss_lg"], config["loss_pg"])
    return (float(config["lambda_l"]), float(config["lambda_g"]), *losses)


def _component_labels(key: Key) -> tuple[str, ...]:
    weight_l, weight_g, pl, lg, pg = key
    ticks = (pl, lg, pg == "attention", pg == "direct")
    return (
        f"{weight_l:g}",
        "–" if weight_g is None else f"{weight_g:g}",
        *("yes" if t else "–" for t in ticks),
    )


_COMPONENTS: tuple[Key, ...] = (
    (0.0, None, True, False, "off"),
    (0.5, None, True, False, "off"),
    *(
        (weight, weight, True, lg, pg)
        for lg in (False, True)
        for pg in ("direct", "attention")
        for weight in (0.0, 0.5)
    ),
)
COMPONENTS = Ablation(
    frozenset({"local_only", "lambda_l", "lambda_g", "loss_pl", "loss_lg", "loss_pg"}),
    _component,
    ("λ_l", "λ_g", "L_pl", "L_lg", "L_pg", "L_pg^d"),
    {key: _component_labels(key) for key in _COMPONENTS},
)
LOCAL = Ablation(
    frozenset({"lambda_l", "lambda_g"}),
    lambda config: (float(config["lambda_l"]),) if config["local_only"] else None,
    ("λ_l",),
    {(weight,): (f"{weight:g}",) for weight in (0.0, 0.01, 0.5, 0.9, 1.0)},
)
BACKBONES = Ablation(frozenset({"backbone"}), lambda config: (str(config["backbone"]),), ("backbone",), {})
QUANTILES = Ablation(
    frozenset({"alpha", "beta"}),
    lambda config: (float(config["alpha"]), float(config["beta"])),
    ("α", "β"),
    {},
    least=4,
)


@dataclass(frozen=True)
class VariantGroup:
    """Rows of an ablation in one ranking: by key, the label of the method there.

    Attributes:
        settings: what else is not ULSAD's default, in words.
    """

    ranking: Ranking
    methods: Mapping[Key, str]
    settings: str

    @property
    def title(self) -> str:
        """Dataset, fingerprint, badges and settings."""
        parts = [self.ranking.dataset, self.ranking.name, *self.ranking.badges()]
        return " · ".join([*parts, *([self.settings] if self.settings else [])])


def variant_groups(board: Leaderboard, ablation: Ablation) -> Iterator[VariantGroup]:
    """Yields what may be compared: settings of one ranking that differ in what the ablation varies alone."""
    for ranking in board.rankings:
        found: dict[str, dict[Key, str]] = defaultdict(dict)
        words: dict[str, str] = {}
        for label in ranking.methods:
            record = ranking.by_method[label][0]
            config = record.identity.config
            if record.spec.method.partition("[")[0] != _METHOD or not ablation.varied <= config.keys():
                continue
            key = ablation.key(config)
            if key is None or (ablation.rows and key not in ablation.rows):
                continue
            rest = {name: value for name, value in config.items() if name not in ablation.varied}
            name = json.dumps([rest, record.identity.method_version], sort_keys=True)
            # A point of a grid that repeats the run it is made from says the same.
            if key not in found[name] or not record.made_from:
                found[name][key] = label
            own = {k: v for k, v in record.spec.params.items() if k not in ablation.varied}
            words[name] = ", ".join(f"{k} = {v}" for k, v in sorted(own.items()))
        for name, methods in found.items():
            if len(methods) >= ablation.least:
                yield VariantGroup(ranking, methods, words[name])


def _ablation(name: str, board: Leaderboard, about: Source) -> Sheet | None:
    ablation = about.ablation
    if ablation is None:
        return None
    blocks = []
    for group in variant_groups(board, ablation):
        rows = ablation.rows or {key: tuple(map(str, key)) for key in group.methods}
        for category in group.ranking.categories if about.by_category else (MEAN,):
            cells = [[_cell(group, key, category, metric) for metric in SCORES] for key in rows]
            title = group.title if category == MEAN else f"{category} · {group.title}"
            blocks.append(Block(title, _lines(list(rows.values()), cells)))
    if not blocks:
        return None
    title = f"{about.title} {_PAPER}: its rows with measured numbers alone, in percent."
    columns = tuple(METRICS[metric].title for metric in SCORES)
    return Sheet(name, title, ablation.labels, columns, tuple(blocks))


def _cell(group: VariantGroup, key: Key, category: str, metric: str) -> Cell:
    return group.ranking.cell(group.methods.get(key, ""), category, "all", metric)


def _lines(labels: Sequence[tuple[str, ...]], cells: Sequence[Sequence[Cell]]) -> tuple[TableLine, ...]:
    """Rows of cells, the best of each column marked."""
    places = list(zip(*(ranks(column) for column in zip(*cells, strict=True)), strict=True))
    return tuple(
        TableLine(label, tuple(told(c) for c in row), tuple(place))
        for label, row, place in zip(labels, cells, places, strict=True)
    )


def _leak(name: str, board: Leaderboard, about: Source) -> Sheet | None:
    blocks = []
    for found in leaks(board):
        there = [p for p in LEAKS if p in found.variants]
        for metric in SCORES:
            rows = [(m, [changes(found, "strict", p, m, metric) for p in there]) for m in found.methods]
            lines = tuple(
                TableLine((method,), tuple(_points(row, there)), (0,) * len(LEAKS))
                for method, row in rows
                if any(row)
            )
            if lines:
                blocks.append(Block(f"{METRICS[metric].title} · {found.title}", lines))
    if not blocks:
        return None
    return Sheet(name, about.title, ("method",), LEAKS, tuple(blocks))


def _points(row: Sequence[Change | None], there: Sequence[str]) -> Iterator[str]:
    known = dict(zip(there, row, strict=True))
    for protocol in LEAKS:
        change = known.get(protocol)
        yield change.text() if change else "not run"


def _contamination(name: str, board: Leaderboard, about: Source) -> Sheet | None:
    families = contaminated(board)
    shares = sorted({share for found in families for share in found.variants})
    blocks = []
    for found in families:
        for metric in SCORES:
            cells, changed = [], []
            for method in found.methods:
                cells.append([found.cell(share, method, metric) for share in shares])
                change = changes(found, shares[0], shares[-1], method, metric)
                changed.append(change.text() if change else "not run")
            lines = tuple(
                TableLine(line.labels, (*line.texts, text), (*line.places, 0))
                for line, text in zip(_lines([(m,) for m in found.methods], cells), changed, strict=True)
            )
            blocks.append(Block(f"{METRICS[metric].title} · {found.title}", lines))
    if not blocks:
        return None
    columns = (*(f"{100 * share:g} %" for share in shares), "last minus first")
    return Sheet(name, about.title, ("method",), columns, tuple(blocks))


@dataclass(frozen=True)
class Source:
    """Where a table comes from.

    Attributes:
        suite: whose records fill it.
        title: of the table.
        make: makes it, ``None`` where no record fits.
        ablation: what it compares, for those of ablations.
        by_category: whether there is a block for each category, not one of means.
    """

    suite: str
    title: str
    make: Callable[[str, Leaderboard, Source], Sheet | None]
    ablation: Ablation | None = None
    by_category: bool = False


SHEETS: Mapping[str, Source] = {
    "table-3": Source("ablation-components", "Table 3", _ablation, COMPONENTS),
    "table-28": Source("ablation-local", "Table 28", _ablation, LOCAL),
    "table-29": Source("ablation-components", "Table 29", _ablation, COMPONENTS, by_category=True),
    "table-30": Source("backbones", "Table 30", _ablation, BACKBONES),
    "leak": Source(
        "leak",
        "What each ingredient adds to strict, in percentage points: the mean of the paired differences over "
        "categories and seeds, with its 95 % interval where there are several. Test data is used by "
        f"{', '.join(p for p in LEAKS if PROTOCOLS[p].uses_test_data)}.",
        _leak,
    ),
    "contamination": Source(
        "contamination",
        "Scores in percent by the share of anomalous images among the training images; the last column is "
        "the mean of the paired differences, with its 95 % interval.",
        _contamination,
    ),
    "efficiency": Source("efficiency", TITLE, lambda name, board, _: efficiency(name, board)),
}


def sheet(name: str, board: Leaderboard) -> Sheet | None:
    """Returns a table of :data:`SHEETS`, ``None`` where no record fits."""
    about = SHEETS[name]
    return about.make(name, board, about)
