"""All comparisons: `nox -s bench`, or `nox -s bench -- metrics house` for some."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from harness.common.files import write_atomically
from harness.profiling.environment import environment
from harness.profiling.interference import Guard
from tests.bench.pairs import Compared, Pair, compare

GROUPS = ("reconstruction", "metrics", "memory_bank", "decoding", "house", "engine")

ALL = (*GROUPS, "gpu")


def pairs(group: str) -> Iterator[Pair]:
    """Yields the comparisons of a module of this folder; each is valid until the next is asked for."""
    found: Iterator[Pair] = importlib.import_module(f"tests.bench.{group}").pairs()
    yield from found


def told(found: Compared) -> dict[str, Any]:
    """Returns a comparison as JSON values."""
    pair = found.pair
    return {
        "name": pair.name,
        "peer": pair.peer_name,
        "note": pair.note,
        "unit": pair.unit,
        "target": pair.target,
        "reached": found.reached,
        "ratio": found.ratio.model_dump(),
        "our_cost": found.ours.model_dump(),
        "peer_cost": found.peer.model_dump(),
    }


def main() -> None:
    """Measures, prints a line for each comparison, and writes them with the machine's description."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=GROUPS, help=f"of {', '.join(ALL)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/latest.json"))
    options = parser.parse_args()
    if stray := set(options.groups) - set(ALL):
        parser.error(f"there is no group {sorted(stray)[0]}: give some of {', '.join(ALL)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for group in options.groups:
        measure(group, options.output)


def measure(group: str, output: Path) -> None:
    """Measures a group and puts it, with the machine, into the file, whose other groups stay."""
    device = torch.device("cuda" if group == "gpu" and torch.cuda.is_available() else "cpu")
    guard, results = Guard(device), []
    for pair in pairs(group):
        found = compare(pair)
        print(found.line(), flush=True)  # noqa: T201
        results.append(told(found))
    if not results:
        return
    content = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": environment(device),
        "flags": guard.flags(),
        "comparisons": results,
    }
    known = json.loads(output.read_text()) if output.exists() else {}
    write_atomically(output, json.dumps(known | {group: content}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
