"""Plants every fault and shows what `bench check` says: `nox -s sabotage`, `nox -s sabotage -- quiet`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.sabotage.copies import Checked, Laboratory
from tests.sabotage.faults import ALL, FAULTS, Fault


def found(fault: Fault, checked: Checked) -> bool:
    """Whether a check gave an expected answer for the expected reason."""
    said = " ".join(checked.reasons()).lower()
    return checked.exact.answer in fault.answers and fault.evidence in said


def row(fault: Fault, checked: Checked) -> str:
    """A row of docs/sabotage.md."""
    why = next((r for r in checked.reasons() if fault.evidence in r.lower()), "–")
    answers = [report.answer for report in (checked.report, checked.exact)]
    cells = (fault.name, ", ".join(fault.methods), *answers, why.replace("|", "/"))
    return f"| {' | '.join(cells)} |"


def faults(laboratory: Laboratory, chosen: str) -> int:
    """Prints a row for each fault, and returns how many were not found."""
    missed = 0
    print("| fault | methods | answer | with `--exact` | why |\n|---|---|---|---|---|")  # noqa: T201
    for fault in FAULTS:
        if chosen.lower() in fault.name.lower():
            checked = laboratory.plant(fault)
            missed += not found(fault, checked)
            print(row(fault, checked), "" if found(fault, checked) else "MISSED", flush=True)  # noqa: T201
    return missed


def quiet(laboratory: Laboratory, turns: int) -> int:
    """Runs the unchanged copy again and again, and returns how many checks were not ok."""
    alarms = costs = again = 0
    for turn in range(turns):
        checked = laboratory.repeat(turn)
        alarms += {checked.report.answer, checked.exact.answer} != {"ok"}
        costs += checked.exact.answer == "speed or memory worse"
        again += checked.again
        why = "; ".join([*(["measured twice"] if checked.again else []), *checked.reasons()])
        answers = f"{checked.report.answer}, --exact {checked.exact.answer}"
        print(f"{turn + 1}: {answers} in {checked.seconds:.0f} s {why}", flush=True)  # noqa: T201
    told = f"{alarms} alarms in {turns} repetitions of unchanged code, {costs} of them for time or memory"
    told += f" alone; {again} measured twice"
    print(told)  # noqa: T201
    return alarms


def main() -> None:
    """Measures in a folder that is thrown away, unless it is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("faults", "quiet"), default="faults")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--methods", default=",".join(ALL), help="that unchanged code repeats")
    parser.add_argument("--turns", type=int, default=20, help="repetitions of unchanged code")
    parser.add_argument("--repeats", type=int, default=1, help="of the baseline")
    parser.add_argument("--folder", type=Path, help="to work in; its baseline is used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        if options.what == "quiet":
            methods = options.methods.split(",")
            sys.exit(min(quiet(Laboratory(folder, options.repeats, methods), options.turns), 1))
        sys.exit(min(faults(Laboratory(folder, options.repeats), options.only), 1))


if __name__ == "__main__":
    main()
