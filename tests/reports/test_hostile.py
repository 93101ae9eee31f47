"""Names that others chose, as hostile as they come, in every format; the tables of both styles."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.method import Citation
from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec, run_key
from reports.tables.bibliography import bibliography
from reports.tables.latex import STYLES, Notes, escape, head, number, table, width
from reports.write import write

NAMES = (
    "a_b&c%d#e${f}~g^h\\i",
    "\\input{/etc/passwd}\\end{document}",
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "'quoted' \"twice\" ``back`` a--b---c ?` !` ,,",
    "Ελληνικά αβγ ς Ω ΰ",
    "中文方法",
    "🏭👩‍🔬",
    "Schölkopf Ñandú Łódź ą ế ﬁ",
    "long" * 75,
    "_" * 300,
    "中" * 300,
    "\u202egnp.exe\u202c \u200f\u2066x\u2069",
    "bell\x07null\x00escape\x1b[31m",
    "tab\tline\nreturn\r\n\n end",
    "=HYPERLINK(1)",
    "+1+1",
    "-rf",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "[0.5ex] *",
    "*",
    "[bold red]x[/]",
    "{{ 7 * 7 }}{% raw %}",
    "../../etc/passwd",
    "..",
    "a,b;c",
    "</title></style>&lt;",
)
CITATION = Citation(
    title="T_1 & 50 % #\\input{x} }{ $x$", authors="Schölkopf, B. and 中, 文", year=1, licence=""
)


def record(dataset: str, category: str, method: str, value: float, seeds: int = 1) -> list[RunRecord]:
    made = []
    for seed in range(seeds):
        spec = RunSpec(dataset=dataset, category=category, method=method, seed=seed)
        identity = Identity(method_version=1, config={}, weights={}, data="d", score_rule="max")
        scores: dict[str, float | None] = dict.fromkeys(("image_auroc", "pixel_auroc", "aupro"), value)
        made.append(
            RunRecord(
                key=run_key(spec, identity),
                spec=spec,
                identity=identity,
                fingerprint=fingerprint(spec, identity, 1),
                outcome="ok",
                metrics={"all": scores, NAMES[0]: scores},
                categories=[category, "other"],
                citation=CITATION.bibtex(method),
                remarks=[method],
                suite=method,
            )
        )
    return made


def run_latex(folder: Path, name: str = "all.tex") -> str:
    """Compiles a document and returns its log."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", name],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / name).with_suffix(".log").read_text(errors="replace")


def need_latex() -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the LaTeX is not compiled")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts = 0
        self.attributes: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.attributes |= {name for name, _ in attrs}
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.mark.parametrize("style", STYLES)
def test_hostile_names_are_harmless_everywhere(tmp_path: Path, style: str) -> None:
    results, out = tmp_path / "results", tmp_path / "report"
    for i, name in enumerate(NAMES):
        other = NAMES[(i + 1) % len(NAMES)]
        # One dataset with all the methods, and one of that name with a category of that name.
        for made in (*record("d", "c", name, i / 100), *record(name, other, "m", 0.5, seeds=2)):
            write_record(results, made)
    write(results, out, latex_style=style)

    paths = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    for part in {part for path in paths for part in path.split("/")}:
        assert re.fullmatch(r"[A-Za-z0-9._=+-]{1,200}", part), part
        assert not part.startswith(("-", "."))

    page = (out / "index.html").read_text(encoding="utf-8")
    parser = Page()
    parser.feed(page)
    assert not parser.tags & {"img", "iframe", "object"}
    assert parser.scripts == 2  # the page's own: its data, and what opens them
    assert not {name for name in parser.attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in parser.cells
    assert "{{ 7 * 7 }}{% raw %}" in parser.cells
    assert "U+202Egnp.exeU+202C U+200FU+2066xU+2069" in parser.cells
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)
    identifiers = re.findall(r'<section class="ranking" id="(.*?)"', page)
    assert len(set(identifiers)) == len(identifiers) == len(NAMES) + 1
    assert set(re.findall(r'href="#(.*?)"', page)) == set(identifiers)

    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [row[column] for row in rows for column in ("dataset", "category", "split", "method")]
    assert {"'=HYPERLINK(1)", "'+1+1", "'-rf", "'@SUM(1)", "'\t=1", "'U+000D=1", NAMES[2]} <= set(cells)
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len({row["method"] for row in rows if row["dataset"] == "d"}) == len(NAMES)

    need_latex()
    tables = out / "tables"
    log = run_latex(tables)
    # A name that no line breaks in may stand out a little where it is quoted in full.
    assert not [w for w in re.findall(r"Overfull \\hbox \((\d+)", log) if int(w) > 10], log
    if shutil.which("bibtex") and shutil.which("pdftotext"):
        subprocess.run(["bibtex", "all"], cwd=tables, capture_output=True)
        run_latex(tables)
        run_latex(tables)
        text = subprocess.run(["pdftotext", "all.pdf", "-"], cwd=tables, capture_output=True, text=True)
        for words in ("<script>alert(1)</script>", "U+4E2D", "=HYPERLINK(1)", "U+1EBF", "U+202E"):
            assert words in text.stdout
        assert "root:" not in text.stdout


@pytest.mark.parametrize("style", STYLES)
def test_all_tables_of_the_paper_fit_the_line(tmp_path: Path, style: str) -> None:
    options = ["--tables", "paper", "--latex-style", style, "-o", str(tmp_path)]
    done = CliRunner().invoke(main, ["report", "--results", str(tmp_path / "none"), *options])
    assert done.exit_code == 0, done.output
    for file in (tmp_path / "paper").glob("table-*.tex"):
        assert (r"\begin{table*}" in file.read_text()) == (style == "ieee")
    need_latex()
    log = run_latex(tmp_path / "paper")
    assert "Overfull" not in log
    assert "too large" not in log


def test_a_table_needs_booktabs_only_and_is_made_smaller_with_graphicx(tmp_path: Path) -> None:
    notes = Notes()
    names = [f"a_method_{i}_with_a_name" for i in range(16)]
    rows = [["Category", *(head(n, notes, f"k{i}") for i, n in enumerate(names))]]
    rows.append(["c", *(number("93.8 ± 0.4", 0, notes) for _ in names)])
    text = table("tmlr", "Caption", "tab:x", "l" + "r" * 16, rows, notes)
    assert r"\cite{k3}" in text
    need_latex()
    for packages, overfull in (("booktabs", True), ("booktabs,graphicx", False)):
        document = f"\\usepackage{{{packages}}}\\begin{{document}}\n{text}\\end{{document}}"
        (tmp_path / "one.tex").write_text(f"{STYLES['tmlr'].preamble}{document}")
        assert ("Overfull" in run_latex(tmp_path, "one.tex")) == overfull


def test_missing_cells_are_dashes_with_notes() -> None:
    notes = Notes()
    assert number("93.8 ± 0.4", 1, notes) == r"\textbf{93.8} {\scriptsize $\pm$ 0.4}"
    assert number("93.8", 2, notes) == r"\underline{93.8}"
    assert number("out of memory", 0, notes) == number("out of memory", 0, notes) == r"--\textsuperscript{a}"
    assert [number(f"reason {i}", 0, notes) for i in range(26)][-1] == r"--\textsuperscript{aa}"
    assert r"\textsuperscript{a}\,out of memory; \textsuperscript{b}\,reason 0" in notes.tex()


def test_text_is_printed_as_it_is_or_named() -> None:
    assert (
        escape("é Ω α Η ς 中 \x07")
        == r"\'{e} $\Omega$ $\alpha$ H $\varsigma$ \texttt{U+4E2D} \texttt{U+0007}"
    )
    assert escape("a--b") == "a-{}-b"
    assert escape("[x]").startswith("{}")
    assert escape("e\u0301") == r"\'{e}"
    assert width(r"\textbf{93.8} {\scriptsize $\pm$ 0.4}") == len("93.8 ± 0.4")
    notes = Notes()
    assert r"reverse\_\\distillation" in head("reverse_distillation", notes)
    assert r"patchcore\\{}[variant=\\authors]" in head("patchcore[variant=authors]", notes)
    assert "a[b[" * 6 in head("a[b[" * 6, notes).replace(r"\\", "").replace("{}", "")
    assert head("x" * 300, notes).endswith(r"\textsuperscript{a}\end{tabular}")
    assert notes.texts == ["x" * 300]


def test_equal_entries_share_a_key_and_unequal_ones_never_do() -> None:
    one, two = (Citation(title=t, authors="Person, A.", year=2024, licence="MIT") for t in "ab")
    found = bibliography(
        [one.bibtex("m"), one.bibtex("m[x=1]"), two.bibtex("M"), "@preamble{ {\\evil} }", "x"]
    )
    assert found.text.count("@") == 2
    assert found.keys[one.bibtex("m")] == found.keys[one.bibtex("m[x=1]")]
    assert len({key.lower() for key in found.keys.values()}) == 2
    assert len(found.keys) == 3


def test_an_entry_keeps_accents_and_loses_commands() -> None:
    text = bibliography(
        [
            '@InProceedings{k e}y, title = "A {\\"o} \\write18{rm} 50% \\& {B}", year = 2024,\n'
            'author = {Sch{\\"o}lkopf, B. and Müller}, url = {https://x.y/a_b%20}\\x}}'
        ]
    ).text
    assert text.startswith("@inproceedings{k-e-y,")
    assert r"title = {A {\"o} \textbackslash{}write18{rm} 50\% \& {B}}" in text
    assert r"author = {Sch{\"o}lkopf, B. and M{\"{u}}ller}" in text
    assert "url = {https://x.y/a_b%20}" in text


def test_citations_are_in_the_heads_unless_refused(tmp_path: Path) -> None:
    for made in record("d", "c", "ulsad", 0.5):
        write_record(tmp_path / "results", made)
    options = ["--results", str(tmp_path / "results"), "-o", str(tmp_path / "out")]
    for flags, there in (([], True), (["--no-latex-cite"], False)):
        assert CliRunner().invoke(main, ["report", *options, *flags]).exit_code == 0
        tables = tmp_path / "out" / "tables"
        texts = [path.read_text() for path in tables.glob("*.tex")]
        assert any(r"\cite{ulsad}" in text for text in texts) == there
        assert any(r"\bibliography{references}" in text for text in texts) == there
        assert "@article{ulsad," in (tables / "references.bib").read_text()
