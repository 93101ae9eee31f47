"""Table 4 with more columns: speed, memory and size of methods, a block for each machine and setting."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from harness.spec.efficiency import Quantity
from harness.spec.record import RunRecord
from reports.rankings.leaderboard import Leaderboard
from reports.tables.block_table import Block, Sheet, TableLine


class Column(NamedTuple):
    """A column: its head, its value in a record, how many digits, and whether less is better."""

    head: str
    value: Callable[[RunRecord], float | None]
    digits: int = 1
    less: bool = True


def _throughput(size: str) -> Callable[[RunRecord], float | None]:
    def value(record: RunRecord) -> float | None:
        found = record.efficiency.throughput.get(size) if record.efficiency else None
        return found.median if found else None

    return value


def _best(record: RunRecord) -> float | None:
    found = record.efficiency.throughput.values() if record.efficiency else ()
    return max((q.median for q in found), default=None)


def _field(name: str, scale: float = 1.0) -> Callable[[RunRecord], float | None]:
    """A number of the record, or the median where it was measured repeatedly."""

    def value(record: RunRecord) -> float | None:
        found = getattr(record.efficiency, name)
        if found is None:
            return None
        return scale * float(found.median if isinstance(found, Quantity) else found)

    return value


def _peak(phase: str) -> Callable[[RunRecord], float | None]:
    """On a GPU what its allocator gave away, else resident memory, in GB."""

    def value(record: RunRecord) -> float | None:
        peaks = record.efficiency.memory.get(phase, {}) if record.efficiency else {}
        found = peaks.get("device", peaks.get("host"))
        return None if found is None else found / 1e9

    return value


def _minutes(record: RunRecord) -> float | None:
    """Of training, on a GPU its own."""
    fitted = record.timings.fitted if record.timings else None
    return None if fitted is None else fitted / 60


COLUMNS = (
    Column("img/s, batch 1", _throughput("1"), less=False),
    Column("img/s, batch 8", _throughput("8"), less=False),
    Column("img/s, batch 32", _throughput("32"), less=False),
    Column("img/s, best batch", _best, less=False),
    Column("img/s, from files", _field("end_to_end"), less=False),
    Column("img/s, paper's way", _field("paper_way"), less=False),
    Column("latency, ms", _field("latency", 1e3)),
    Column("p99, ms", _field("latency_p99", 1e3)),
    Column("predict, GB", _peak("predict"), 2),
    Column("fit, GB", _peak("fit"), 2),
    Column("trained img/s", _field("training"), less=False),
    Column("fit, min", _minutes, 2),
    Column("parameters, M", _field("parameters", 1e-6)),
    Column("state, MB", _field("state_bytes", 1e-6)),
    Column("GFLOP", _field("flops", 1e-9)),
    Column("J per 1,000", _field("energy"), 0),
)
TITLE = (
    "Efficiency as docs/efficiency.md defines it: medians, images per second of the model alone by batch "
    "size, from files to scores, and in the way of Table 4 of Patra and Ben Taieb (TMLR 2024), batch 32 with "
    "reading included. Only rows of one block may be compared."
)


def efficiency(name: str, board: Leaderboard) -> Sheet | None:
    """Returns the table of all runs whose efficiency was measured, ``None`` where none was."""
    blocks: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for ranking in board.rankings:
        for (method, category, _), record in ranking.records.items():
            if record.efficiency is not None:
                blocks[_setting(record, category)][method].append(record)
    found = tuple(Block(title, tuple(_lines(own))) for title, own in sorted(blocks.items()))
    heads = tuple(column.head for column in COLUMNS)
    return Sheet(name, TITLE, ("method",), heads, found) if found else None


def _setting(record: RunRecord, category: str) -> str:
    """What must be the same for costs to be compared."""
    environment, spec = record.environment, record.spec
    threads = environment.get("threads")
    where = environment.get("gpu") or f"{environment.get('cpu')}, {threads} thread{'s' * (threads != 1)}"
    trained = f"{record.counts.get('train', 0)} training images"
    random = ", random weights" if spec.backbone_weights == "none" else ""
    flagged = ", a busy or throttled machine" if record.efficiency and _disturbed(record) else ""
    return f"{where} · {spec.dataset}/{category}, {trained}, {spec.image_size} px{random}{flagged}"


def _disturbed(record: RunRecord) -> bool:
    flags = record.efficiency.flags if record.efficiency else ()
    return any(flag.startswith(("busy", "throttled")) for flag in flags)


def _lines(methods: dict[str, list[RunRecord]]) -> Iterator[TableLine]:
    values = {method: [_value(column, own) for column in COLUMNS] for method, own in methods.items()}
    ranked = [_places([row[i] for row in values.values()], column) for i, column in enumerate(COLUMNS)]
    for number, (method, row) in enumerate(values.items()):
        texts = tuple(
            "not measured" if value is None else f"{value:.{column.digits}f}"
            for value, column in zip(row, COLUMNS, strict=True)
        )
        yield TableLine((method,), texts, tuple(places[number] for places in ranked))


def _value(column: Column, records: Sequence[RunRecord]) -> float | None:
    found = [value for record in records if (value := column.value(record)) is not None]
    return statistics.median(found) if found else None


def _places(values: Sequence[float | None], column: Column) -> list[int]:
    """1 for the best of a column and 2 for the second, equal ones as shown together."""
    shown = [None if value is None else round(value, column.digits) for value in values]
    order = sorted({value for value in shown if value is not None}, reverse=not column.less)[:2]
    return [order.index(value) + 1 if value is not None and value in order else 0 for value in shown]
