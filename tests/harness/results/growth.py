"""Growth: what a hundred thousand records take and what a million, in seconds of one core and bytes.

``python -m tests.harness.results.growth FOLDER`` prints a table for docs/records.md. The records are
simulated, and say so. All but the first 100,000 are copies of these under other datasets' names with keys of
their own, compacted as they are made; the first 100,000 are files, which `bench results compact` then takes
in.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.planning.forecast import Forecast
from harness.profiling.memory import peak_resident
from harness.results.compaction import compact
from harness.results.merge import merge
from harness.results.outcome_index import Seen
from harness.results.parquet import COMPACTED, RecordRow, Writer
from harness.results.store import Folder, recent_records, record_names, record_path
from harness.spec.record import RunRecord
from harness.spec.run import run_key
from reports.write import write
from tests.reports.simulated import Simulation

FILES = 100_000


def copy(content: bytes, dataset: str) -> RecordRow:
    """A record's copy under another dataset's name."""
    record = RunRecord.model_validate_json(content)
    spec = record.spec.model_copy(update={"dataset": dataset})
    key = run_key(spec, record.identity)
    text = content.replace(record.key.encode(), key.encode(), 1)
    text = text.replace(f'"dataset": "{record.spec.dataset}"'.encode(), f'"dataset": "{dataset}"'.encode(), 1)
    place = record_path(Path(), spec, key).as_posix()
    return RecordRow(place, record.outcome, record.fingerprint.metrics_version, 10**18, text)


def copies(base: Path, count: int) -> Iterator[RecordRow]:
    """Yields so many copies of each record of a folder, in order of their paths."""
    folder = Folder(base)
    names = record_names(base)
    for number in range(1, count + 1):
        for _, group in groupby(names, lambda name: name.rpartition("/")[0]):
            made = (copy(folder.content(name), f"v{number}_{name.partition('/')[0]}") for name in group)
            # In order of their own keys.
            yield from sorted(made)


def make(base: Path, results: Path, records: int, files: int) -> None:
    """Makes a folder of so many records, of which the first ones are files."""
    if not base.is_dir():
        Simulation(min(records, files)).write(base)
    # Links: compacting removes names, and writes no file.
    shutil.copytree(base, results, copy_function=os.link)
    if records > files:
        with Writer(results / COMPACTED) as writer:
            for row in copies(base, records // files - 1):
                writer.add(row)


def resume(results: Path, cache: Path) -> None:
    """What a plan of all these runs asks the folder, and the forecast."""
    folder = Folder(results)
    seen = Seen(folder, cache)
    there = folder.compacted()
    found = 0
    for name in there.names() if there else record_names(results):
        dataset, category, method, key = name.removesuffix(".json").split("/")
        spec: Any = SimpleNamespace(dataset=dataset, category=category, method=method)
        found += seen.look(spec, key) is not None
    seen.remember()
    Forecast(recent_records(folder))
    assert found == (len(there) if there else found)


def unite(results: Path, base: Path) -> None:
    """A folder of a thousand records, half of them there already, into the large one."""
    small = results.with_name("small")
    folder = Folder(base)
    for number, name in enumerate(record_names(base)[:1000]):
        content = folder.content(name)
        row = copy(content, "other")
        path = small / (row.name if number % 2 else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.json if number % 2 else content)
    merged = merge([small], results)
    assert not merged.conflicts and not merged.damaged, merged
    assert merged.twice == merged.written == 500, merged
    shutil.rmtree(small)


def report(results: Path, formats: str) -> None:
    """Written twice, the second time it comes from the cache."""
    write(results, results.with_name("report"), formats=formats)


def _measured(step: Callable[..., object], *given: object) -> tuple[float, float]:
    begun = time.process_time()
    step(*given)
    return time.process_time() - begun, peak_resident()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, nargs="+", default=[FILES, 10 * FILES])
    parser.add_argument("--files", type=int, default=FILES, help="how many of them are files at first")
    parser.add_argument("--formats", default="csv,html,latex")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ["BENCH_CACHE"] = str(given.folder / "cache")
    cache = given.folder / "cache"
    say = sys.stdout.write
    say("| records | step | s | µs per record | peak, GB |\n|---|---|---|---|---|\n")
    for records in given.records:
        base, results = given.folder / "base", given.folder / f"results-{records}"
        shutil.rmtree(results, ignore_errors=True)
        make(base, results, records, given.files)
        steps: tuple[tuple[str, Callable[..., object], tuple[object, ...]], ...] = (
            ("compact", compact, (results,)),
            ("resume", resume, (results, cache)),
            ("merge", unite, (results, base)),
            ("report, first time", report, (results, given.formats)),
            ("report, again", report, (results, given.formats)),
        )
        for name, step, arguments in steps:
            # A process of its own, whose peak is that of the step.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(_measured, (step, *arguments))
            each = 1e6 * seconds / records
            say(f"| {records:,} | {name} | {seconds:.1f} | {each:.0f} | {peak / 1e9:.2f} |\n")
            sys.stdout.flush()
        size = (results / COMPACTED).stat().st_size
        say(f"| {records:,} | file | | {size / records:.0f} bytes | {size / 1e9:.2f} |\n")


if __name__ == "__main__":
    main()
