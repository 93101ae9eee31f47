"""Many records as one file, ``records.parquet`` in the results folder: their JSON byte for byte.

A row for each record, in the order of their paths. Beside the JSON stand what says where its file would lie
(``dataset``, ``category``, ``method``, ``key``), what a plan asks for (``outcome``, ``metrics_version``), and
the file's ``size`` and time of change (``modified``, nanoseconds). Rows come in groups of about 8 MB, so that
neither reading nor writing needs more memory for more records.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.common.errors import UserError

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa

COMPACTED = "records.parquet"
_PLACE = ("dataset", "category", "method", "key")
_GROUP_ROWS = 1000
_GROUP_BYTES = 8 * 1024**2
# A group ends with the record that makes it large, and one may have 32 MB.
_LARGEST_GROUP = 64 * 1024**2
_COLUMNS = (*_PLACE, "outcome", "metrics_version", "modified", "size", "json")
# As `harness.spec.names.slug` makes them, and the key of a record: these become paths.
_NAME = re.compile(r"[A-Za-z0-9_=+][A-Za-z0-9._=+-]*/" * 3 + r"[0-9a-f]{16}\.json")


class RecordRow(NamedTuple):
    """A record.

    Attributes:
        name: where its file would lie within the results folder, with slashes.
        outcome: the record's.
        metrics_version: the record's.
        modified: when its file was last changed, in nanoseconds.
        json: its file's content.
    """

    name: str
    outcome: str
    metrics_version: int
    modified: int
    json: bytes


class Known(NamedTuple):
    """What is known of a record without its JSON; see :class:`RecordRow`."""

    outcome: str
    metrics_version: int
    modified: int
    size: int


class Writer:
    """Writes rows, which come in the order of their paths; the file is whole when the block has ended.

    Attributes:
        count: how many there are.

    Args:
        path: the file, which is made.

    Raises:
        UserError: pyarrow is not installed.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        _check_installed(path.parent)
        from pyarrow import parquet

        self._schema = _schema()
        self._file = parquet.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["dataset", "category", "method", "outcome"],
            # Of the JSON it would be as long as the JSON.
            write_statistics=list(_PLACE),
            write_page_checksum=True,
        )
        self._rows: list[RecordRow] = []
        self._bytes = 0
        self._last: list[str] = []
        self.count = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def add(self, row: RecordRow) -> None:
        """Writes a row.

        Raises:
            ValueError: it does not come after the one before.
        """
        place = parts(row.name)
        if place <= self._last:
            raise ValueError(f"{row.name} comes after {'/'.join(self._last)}")
        self._last = place
        self.count += 1
        self._rows.append(row)
        self._bytes += len(row.json)
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        names, outcomes, versions, times, texts = zip(*self._rows, strict=True)
        places = zip(*(name.removesuffix(".json").split("/") for name in names), strict=True)
        values = [*places, outcomes, versions, times, [len(text) for text in texts], texts]
        arrays = [pa.array(v, kind) for v, kind in zip(values, self._schema.types, strict=True)]
        self._file.write_table(pa.table(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0


class Compacted:
    """The records of such a file, read a group at a time.

    Raises:
        UserError: pyarrow is not installed, or the file is not one of `bench results compact`, or damaged.
    """

    def __init__(self, path: Path) -> None:
        _check_installed(path.parent)
        import pyarrow as pa
        from pyarrow import parquet

        self._path = path
        # Of the group that was read last.
        self._group, self._at, self._texts = -1, dict[str, int](), list[bytes]()
        try:
            self._file = parquet.ParquetFile(path, page_checksum_verification=True)
            metadata = self._file.metadata
            if not self._file.schema_arrow.equals(_schema()):
                raise self._damaged("it has other columns than these have")
            self._groups = metadata.num_row_groups
            json = len(_COLUMNS) - 1
            sizes = (metadata.row_group(i).column(json).total_uncompressed_size for i in range(self._groups))
            if max(sizes, default=0) > _LARGEST_GROUP:
                raise self._damaged("a group of rows is larger than 64 MB")
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from error

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def names(self) -> list[str]:
        """Returns where the records' files would lie, in order."""
        names = list[str]()
        for group in range(self._groups):
            names += self._names(self._read(group, _PLACE))
        if any(parts(later) <= parts(earlier) for earlier, later in pairwise(names)):
            raise self._damaged("its rows are not in order")
        return names

    def json(self, name: str) -> bytes:
        """Returns the JSON of a record; one after the other in their order is quickest.

        Raises:
            KeyError: there is no such record.
        """
        if name not in self._at:
            for group in self._holding(name):
                table = self._read(group, (*_PLACE, "json"))
                self._at = {name: row for row, name in enumerate(self._names(table))}
                self._texts, self._group = table.column("json").to_pylist(), group
                if name in self._at:
                    break
        return self._texts[self._at[name]]

    def rows(self) -> Iterator[RecordRow]:
        """Yields all rows in order."""
        for group in range(self._groups):
            table = self._read(group, _COLUMNS)
            columns = ("outcome", "metrics_version", "modified", "json")
            rest = (table.column(name).to_pylist() for name in columns)
            yield from map(RecordRow, self._names(table), *rest)

    def known(self, name: str) -> Known | None:
        """Returns what is known of a record without its JSON, ``None`` where there is none."""
        keys, columns = self._known
        if not _NAME.fullmatch(name):
            return None
        # Of the same type: else NumPy would compare rounded numbers.
        key = keys.dtype.type(int(name[-21:-5], 16))
        at = int(keys.searchsorted(key))
        if at == len(keys) or keys[at] != key:
            return None
        outcome, *numbers = (column[at] for column in columns)
        return Known(outcome.decode(), *map(int, numbers))

    @cached_property
    def _known(self) -> tuple[Any, list[Any]]:
        """Keys in order, and the columns of :class:`Known` in that order: 40 bytes a record."""
        import numpy as np

        found: list[list[Any]] = [[] for _ in range(5)]
        for group in range(self._groups):
            table = self._read(group, ("key", "outcome", "metrics_version", "modified", "size"))
            keys, outcomes, *numbers = (column.to_pylist() for column in table.columns)
            found[0].append(np.array([int(key, 16) for key in keys], np.uint64))
            found[1].append(np.array([text.encode("ascii", "replace") for text in outcomes], "S16"))
            for place, column in enumerate(numbers, 2):
                found[place].append(np.array(column, np.int64))
        keys, *columns = (np.concatenate(column or [np.empty(0, np.uint64)]) for column in found)
        order = np.argsort(keys)
        return keys[order], [column[order] for column in columns]

    def _holding(self, name: str) -> Iterator[int]:
        """Yields the groups that may hold a record, the one after the last read one first."""
        wanted = name.removesuffix(".json").split("/")
        follows = self._group + 1
        order = [*range(follows, self._groups), *range(follows)]
        yield from (group for group in order if self._may_hold(group, wanted))

    def _may_hold(self, group: int, wanted: list[str]) -> bool:
        row_group = self._file.metadata.row_group(group)
        for column, value in enumerate(wanted):
            found = row_group.column(column).statistics
            if found is not None and found.has_min_max and not found.min <= value <= found.max:
                return False
        return True

    def _read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        import pyarrow as pa

        try:
            table = self._file.read_row_group(group, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from error
        if any(column.null_count for column in table.columns):
            raise self._damaged("it has empty cells")
        return table

    def _names(self, table: pa.Table) -> list[str]:
        columns = (table.column(name).to_pylist() for name in _PLACE)
        names = [f"{'/'.join(place)}.json" for place in zip(*columns, strict=True)]
        if odd := next((name for name in names if not _NAME.fullmatch(name)), None):
            raise self._damaged(f"it names a record {odd[:80]!r}")
        return names

    def _damaged(self, why: str) -> UserError:
        said = " ".join(why.split())
        return UserError(
            f"{self._path} is damaged or was not made by `bench results compact` ({said}): put a copy of it "
            "in its place, or move it away; the runs in it then count as not done."
        )


def _schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    kinds = (text, text, text, pa.string(), text, pa.int32(), pa.int64(), pa.int64(), pa.binary())
    return pa.schema(list(zip(_COLUMNS, kinds, strict=True)))


def parts(name: str) -> list[str]:
    """Returns what the names of records are put in order by: as folders are listed."""
    return name.split("/")


def _check_installed(results: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"The records of {results} in {COMPACTED} need pyarrow: run pip install 'ulsad-bench[parquet]'."
        )
