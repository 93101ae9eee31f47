"""Published numbers: as printed, under our names, and never ranked with measured ones."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UserError

PAPER = "ulsad_tmlr2024"
_FIELDS = ("table", "dataset", "split", "category", "method", "metric", "value", "std", "unit")
# The shipped file uses our names; files of others may use the names that papers print.
_NAMES = {
    "dataset": {"mvtec_ad": "mvtec", "mvtecad": "mvtec", "loco": "mvtec_loco", "mvtec_loco_ad": "mvtec_loco"},
    "method": {"rd": "reverse_distillation", "rd4ad": "reverse_distillation", "c_flow": "cflow"},
    "metric": {"i_auroc": "image_auroc", "p_auroc": "pixel_auroc", "au_pro": "aupro", "pro": "aupro"},
}


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        source: name of the file that holds it, without its ending.
        table: number of the table that prints it.
        split: ``all``, or a kind of anomaly.
        category: a category, or ``mean``.
        value: the number, in ``unit``.
        std: standard deviation over seeds, ``None`` where none is printed.
        unit: ``%``, ``img/s`` or ``GB``.
        printed: ``value`` as it was printed, e.g. ``100.0``.
        printed_std: ``std`` as it was printed, empty for none.
    """

    source: str
    table: str
    dataset: str
    split: str
    category: str
    method: str
    metric: str
    value: float
    std: float | None
    unit: str
    printed: str
    printed_std: str

    def text(self) -> str:
        """The number as printed: ``93.8 ± 0.4`` or ``93.8``."""
        return self.printed + (f" ± {self.printed_std}" if self.printed_std else "")


def our_name(kind: str, name: str) -> str:
    """Returns our name of a published ``dataset``, ``method`` or ``metric``: ``MVTec AD`` is ``mvtec``."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return _NAMES[kind].get(plain, plain)


def paper() -> list[Published]:
    """Returns the numbers of ULSAD's paper, which come with the package."""
    return load_numbers(Path(__file__).parent / f"{PAPER}.csv")


def published(files: Iterable[Path] = ()) -> list[Published]:
    """Returns the paper's numbers and those of further files."""
    return [*paper(), *(row for file in files for row in load_numbers(file))]


def load_numbers(path: Path) -> list[Published]:
    """Reads a CSV of published numbers.

    Raises:
        UserError: it cannot be read, or a column or a value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Published numbers cannot be read from {path} ({error}).") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = tuple(reader.fieldnames or ())
    if odd := [c for c in _FIELDS if c not in columns] + [c for c in columns if c not in _FIELDS]:
        raise UserError(
            f"{path}, line 1: column '{odd[0]}' is missing or unknown; the columns are {', '.join(_FIELDS)}."
        )
    return [_row(path, reader.line_num, row) for row in reader]


def _row(path: Path, line: int, row: dict[str, str | None]) -> Published:
    if None in row:
        raise UserError(f"{path}, line {line}: there are more values than the {len(_FIELDS)} columns.")
    for name in _FIELDS:
        if row[name] is None or (name != "std" and not str(row[name]).strip()):
            raise UserError(f"{path}, line {line}, column '{name}': there is no value.")
    given = {name: str(row[name]).strip() for name in _FIELDS}
    return Published(
        source=path.stem,
        table=given["table"],
        dataset=our_name("dataset", given["dataset"]),
        split=given["split"],
        category=given["category"],
        method=our_name("method", given["method"]),
        metric=our_name("metric", given["metric"]),
        value=_number(path, line, "value", given),
        std=_number(path, line, "std", given) if given["std"] else None,
        unit=given["unit"],
        printed=given["value"],
        printed_std=given["std"],
    )


def _number(path: Path, line: int, column: str, given: dict[str, str]) -> float:
    try:
        number = float(given[column])
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (given["unit"] == "%" and number > 100):
        allowed = "from 0 to 100" if given["unit"] == "%" else "of at least 0"
        raise UserError(f"{path}, line {line}, column '{column}': '{given[column]}' is no number {allowed}.")
    return number
