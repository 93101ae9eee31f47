"""The report for people and machines: terminal, Markdown, JUnit, annotations. Names are harmless in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from harness.checks.regression.verdict import WORSE, Compared, Report, Verdict
from harness.common.text import annotation, markdown, plain

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"ok": "✅", "score worse": "❌", "speed or memory worse": "❌"}
_STYLES = {"ok": "green", "score worse": "bold red", "speed or memory worse": "bold red"}


def print_report(report: Report, console: Console) -> None:
    """Prints a table of cells, then why those are there that are not ok."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("", "cell", "image AUROC", "fit", "predict"):
        table.add_column(heading, overflow="fold")
    for verdict in report.verdicts:
        style = _STYLES.get(verdict.answer, "yellow")
        row = (_score(verdict, "image AUROC"), _cost(verdict, "fit"), _cost(verdict, "predict"))
        table.add_row(Text(verdict.answer, style=style), Text(plain(verdict.name)), *map(Text, row))
    console.print(table)
    for verdict in report.verdicts:
        for line in (*verdict.reasons, *verdict.notes):
            console.print(f"{plain(verdict.name)}: {plain(line)}", markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(plain(note), markup=False, soft_wrap=True)
    console.print(Text(report.summary, style=_STYLES.get(report.answer, "yellow")), soft_wrap=True)


def verdict_markdown(report: Report) -> str:
    """Returns the page of a job's summary: what is not ok first, then every cell, folded."""
    mark = _MARKS.get(report.answer, "⚠️")
    lines = [f"## {mark} bench check: {markdown(report.answer)}", "", markdown(report.summary), ""]
    if bad := [verdict for verdict in report.verdicts if verdict.answer != "ok"]:
        lines += ["| cell | answer | why |", "|---|---|---|"]
        for verdict in bad:
            why = "<br>".join(markdown(reason) for reason in verdict.reasons)
            lines.append(f"| {markdown(verdict.name)} | {verdict.answer} | {why} |")
        lines.append("")
    lines += [f"- {markdown(note)}" for note in (*_notes(report), *report.notes)]
    heads = ("cell", "answer", "image AUROC", "pixel AUROC", "AUPRO", "fit", "predict", "memory")
    lines += ["", f"<details><summary>All {len(report.verdicts)} rows</summary>", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for verdict in report.verdicts:
        row = [_score(verdict, what) for what in heads[2:5]] + [_cost(verdict, what) for what in heads[5:7]]
        memory = _cost(verdict, "memory device") or _cost(verdict, "memory host")
        words = [markdown(text) for text in (verdict.name, verdict.answer, *row, memory)]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join([*lines, "", "</details>", ""])


def to_junit(report: Report) -> bytes:
    """Returns JUnit's XML: worse is a failure, not compared an error, since what is skipped looks green."""
    worse = sum(verdict.answer in WORSE for verdict in report.verdicts)
    bad = sum(verdict.answer != "ok" for verdict in report.verdicts)
    counts = {
        "name": "bench check",
        "tests": str(len(report.verdicts)),
        "failures": str(worse),
        "errors": str(bad - worse),
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", counts)
    for verdict in report.verdicts:
        place, _, _ = verdict.name.partition("/")
        case = ElementTree.SubElement(suite, "testcase", classname=plain(place), name=plain(verdict.name))
        if verdict.answer != "ok":
            kind = "failure" if verdict.answer in WORSE else "error"
            message = plain("; ".join(verdict.reasons))
            found = ElementTree.SubElement(case, kind, type=verdict.answer, message=message)
            found.text = message
        lines = [plain(note) for note in verdict.notes] + [
            _words(c) for c in (*verdict.scores, *verdict.costs)
        ]
        ElementTree.SubElement(case, "system-out").text = "\n".join(lines)
    said = ElementTree.SubElement(suite, "system-out")
    said.text = "\n".join(plain(line) for line in (report.summary, *report.notes))
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def workflow_commands(report: Report) -> Iterator[str]:
    """Yields GitHub's workflow commands: an error for what is worse, a warning for what was not compared."""
    for verdict in report.verdicts:
        if verdict.answer != "ok":
            level = "error" if verdict.answer in WORSE else "warning"
            yield annotation(level, f"{verdict.answer}: {verdict.name}", "; ".join(verdict.reasons))
    if report.answer != "ok":
        yield annotation("error", "bench check", report.summary)


def _notes(report: Report) -> list[str]:
    """Notes of cells, each once with how many cells it is about."""
    counts: dict[str, int] = {}
    for verdict in report.verdicts:
        for note in verdict.notes:
            counts[note] = counts.get(note, 0) + 1
    return [f"{note} ({count} cells)" if count > 1 else note for note, count in counts.items()]


def _score(verdict: Verdict, what: str) -> str:
    for score in verdict.scores:
        if score.what == what:
            return f"{score.baseline:.2f} → {score.now:.2f}"
    return ""


def _cost(verdict: Verdict, what: str) -> str:
    """The largest change of a cost over the machines."""
    ratios = [cost.now / cost.baseline - 1 for cost in verdict.costs if cost.what == what]
    return f"{100 * max(ratios):+.1f} %" if ratios else ""


def _words(compared: Compared) -> str:
    p = "" if compared.p is None else f", p = {compared.p:.2g}"
    where = f" on {plain(compared.hardware)}" if compared.hardware else ""
    values = f"{compared.baseline:.6g} → {compared.now:.6g} {compared.unit}"
    return f"{compared.what}{where}: {values} ({compared.rule}{p})"
