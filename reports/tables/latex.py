"""What every LaTeX table shares: text that compiles, names that fit, notes, and the frame of a style."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from harness.common.text import code
from reports.tables.page_breaks import Line, chunks, panels

_SYMBOLS = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "\xa0": "~",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u0304": "=",
    "\u0307": ".",
    "\u0306": "u",
    "\u030c": "v",
    "\u030b": "H",
    "\u0327": "c",
    "\u030a": "r",
    "\u0323": "d",
}
_GREEK = (
    *("ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON", "ZETA", "ETA", "THETA", "IOTA", "KAPPA", "LAMDA", "MU"),
    *("NU", "XI", "OMICRON", "PI", "RHO", "SIGMA", "TAU", "UPSILON", "PHI", "CHI", "PSI", "OMEGA"),
)
# Greek letters that look like Latin ones, for which TeX has no name.
_LATIN = {
    "SMALL OMICRON": "o",
    **{f"CAPITAL {name}": name[0] for name in ("ALPHA", "BETA", "EPSILON", "ZETA", "IOTA", "KAPPA", "MU")},
    **{f"CAPITAL {name}": name[0] for name in ("NU", "OMICRON", "TAU")},
    "CAPITAL ETA": "H",
    "CAPITAL RHO": "P",
    "CAPITAL CHI": "X",
}
_LIGATURES = {"--", "``", "''", ",,", "?`", "!`"}
_FONTS = re.compile(r"\\(?:textbf|underline|texttt|textsuperscript|emph|scriptsize|allowbreak)\b ?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?: ± \d+(?:\.\d+)?)?")
_LINE, _NAME, _ROW = 16, 56, 40
# What a line of a name may end after; parameters in brackets begin one.
_WORDS = re.compile(r"\[*[^_ ,=\[-]*[_ ,=-]|\[*[^_ ,=\[-]+|\[+")
# What a table may be made smaller by, and how high it may be in points: less than a page, for its caption.
_SMALLEST, _PAGE = 0.75, 570


@dataclass(frozen=True)
class Style:
    """How a venue sets tables.

    Attributes:
        line: width of a column of text in points.
        page: width of the text in points; wider than ``line`` where there are two columns.
        preamble: of the document that shows the tables.
    """

    line: float
    page: float
    preamble: str


STYLES: Mapping[str, Style] = {
    "tmlr": Style(
        469,
        469,
        "\\documentclass[10pt]{article}\n"
        "\\usepackage[letterpaper,textwidth=6.5in,textheight=9in]{geometry}\n",
    ),
    "ieee": Style(
        252,
        516,
        "\\documentclass[10pt,twocolumn]{article}\n"
        "\\usepackage[letterpaper,textwidth=516pt,textheight=9.3in,columnsep=12pt]{geometry}\n"
        "\\renewcommand{\\thetable}{\\Roman{table}}\n",
    ),
}


@dataclass
class Notes:
    """Explanations below a table, each under a letter; equal ones share it."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Returns the superscript that leads to an explanation."""
        if text not in self.texts:
            self.texts.append(text)
        return self._sign(self.texts.index(text))

    def tex(self, table: str | None = None) -> str:
        """The explanations as a paragraph, of those that a table needs; empty where there are none."""
        own = enumerate(self.texts) if table is None else self._needed(table)
        shown = "; ".join(f"{self._sign(i)}\\,{escape(t, breaks=True)}" for i, t in own)
        return f"\n\\par\\smallskip{{\\footnotesize\\raggedright {shown}.\\par}}" if shown else ""

    def heights(self, line: float) -> dict[str, float]:
        """About how high in points each explanation is on lines so wide, by its sign."""
        wide = [width(escape(text)) + 4 for text in self.texts]
        return {self._sign(i): 9.5 * 4.6 / line * own for i, own in enumerate(wide)}

    def _needed(self, table: str) -> list[tuple[int, str]]:
        there = signs(table)
        return [(i, text) for i, text in enumerate(self.texts) if self._sign(i) in there]

    @staticmethod
    def _sign(index: int) -> str:
        letters = ""
        while index >= 0:
            index, rest = divmod(index, 26)
            letters, index = chr(ord("a") + rest) + letters, index - 1
        return f"\\textsuperscript{{{letters}}}"


def signs(table: str) -> set[str]:
    """Returns the signs in a table that lead to explanations."""
    return set(re.findall(r"\\textsuperscript\{[a-z]+\}", table))


# Names and numbers repeat many times in the tables of one report.
@lru_cache(maxsize=2**16)
def escape(text: str, breaks: bool = False) -> str:
    """Returns text that LaTeX prints as it is; a character that pdfLaTeX lacks is named: ``U+4E2D``.

    Args:
        text: any text.
        breaks: whether lines may break within long words.
    """
    parts, before, run = [], "", 0
    for character in unicodedata.normalize("NFC", text):
        shown = _character(character)
        parts += ["{}", shown] if before + character in _LIGATURES else [shown]
        before, run = character, 0 if character == " " else run + 1
        if breaks and run and (run % 24 == 0 or character in "_/" or "U+" in shown):
            parts.append("\\allowbreak{}")
    # After the end of a row these would be taken for arguments of \\.
    return ("{}" if text.startswith(("[", "*")) else "") + "".join(parts)


@lru_cache(maxsize=2**16)
def width(tex: str) -> int:
    """Returns about how many characters wide something is printed."""
    plain = re.sub(r"\\cite\{[^}]*\}", "[00]", tex)
    lines = re.sub(r"\\begin\{tabular\}\[b\]\{@\{\}r@\{\}\}|\\end\{tabular\}", "", plain).split(r"\\")
    return max(len(re.sub(r"[{}$]", "", re.sub(r"\\(?:[A-Za-z]+|.)", "x", _FONTS.sub("", t)))) for t in lines)


def head(name: str, notes: Notes, cite: str = "") -> str:
    """A name at the head of a column: in short lines; a very long one stands in full below the table."""
    lines, mark = [""], ""
    if width(escape(name)) > _NAME:
        name, mark = _cut(name, _NAME // 2), notes.mark(name)
    for word in _WORDS.findall(name):
        if lines[-1] and width(escape(lines[-1] + word)) > _LINE:
            lines.append("")
        if width(escape(lines[-1] + word)) <= _LINE + 4:
            lines[-1] += word
            continue
        for character in word:
            if width(escape(lines[-1] + character)) > _LINE + 4:
                lines.append("")
            lines[-1] += character
    shown = [escape(line.strip(" ")) for line in lines]
    shown[-1] += mark
    shown += [f"\\cite{{{cite}}}"] if cite else []
    stacked = r"\\".join(shown)
    return f"\\begin{{tabular}}[b]{{@{{}}r@{{}}}}{stacked}\\end{{tabular}}" if len(shown) > 1 else shown[0]


def first(name: str, notes: Notes) -> str:
    """A name at the start of a row; a very long one stands in full below the table."""
    if width(escape(name)) <= _ROW:
        return escape(name)
    return escape(_cut(name, _ROW - 10)) + notes.mark(name)


def number(text: str, place: int, notes: Notes, missing: str = "") -> str:
    """A score: best in bold, second underlined, its deviation small; anything else a dash with a note.

    Args:
        text: ``93.8``, ``93.8 ± 0.4``, or why there is no number.
        place: 1 for the best, 2 for the second, else 0.
        notes: where the reason goes.
        missing: the reason for an empty text.
    """
    return _score(text, place) or "--" + notes.mark(text or missing)


# Few numbers are different ones in the tables of a report.
@lru_cache(maxsize=2**16)
def _score(text: str, place: int) -> str:
    """A number as LaTeX; empty for what is none."""
    if not _NUMBER.fullmatch(text):
        return ""
    score, _, deviation = text.partition(" ± ")
    score = {1: f"\\textbf{{{score}}}", 2: f"\\underline{{{score}}}"}.get(place, score)
    return score + (f" {{\\scriptsize $\\pm$ {deviation}}}" if deviation else "")


def table(  # noqa: PLR0913 - a table
    style: str,
    caption: str,
    label: str,
    columns: str,
    rows: Sequence[Sequence[str] | str],
    notes: Notes,
    title: str = "",
) -> str:
    r"""A table that fits the line and the page, its caption above.

    What is much too wide is set in panels, with the first columns in each; what is too high goes on in
    another float under the same number, with the head and the notes that it needs.

    Args:
        style: name of a style.
        caption: LaTeX.
        label: what ``\ref`` names.
        columns: a letter for each column, e.g. ``lrr``; those that name the row are ``l``, others not.
        rows: cells as LaTeX, the head first; a string stands as it is: ``\midrule``, or a ``\multicolumn``
            over all columns.
        notes: what is explained below.
        title: the caption of what goes on elsewhere, LaTeX.
    """
    cells = [own for own in rows if not isinstance(own, str)]
    # The same numbers stand in many cells.
    known = {text: width(text) for text in {text for own in cells for text in own}}
    widths = [max(known[own[i]] for own in cells) for i in range(len(columns))]
    smalls = [4.3 * w + 8 for w in widths]
    wide = sum(smalls) > STYLES[style].line and STYLES[style].page > STYLES[style].line
    line = STYLES[style].page if wide else STYLES[style].line
    shown = panels(smalls, len(columns) - len(columns.lstrip("l")), line / _SMALLEST)
    # How wide a citation is depends on the document: [1] or (Author et al., 2024).
    scaled = sum(smalls) > line or any("\\cite{" in text for text in known)
    high, size = 12.0, ""
    if sum(5.4 * w + 12 for w in widths) > line:
        high, size = 9.6, "\\footnotesize\\setlength{\\tabcolsep}{4pt}%\n"

    def tabular(own: Sequence[int], part: Sequence[Line]) -> str:
        lines = [_row(some, own) for some in (rows[0], *part)]
        body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
        inner = f"\\begin{{tabular}}{{{''.join(columns[i] for i in own)}}}\n{body}\n\\end{{tabular}}"
        if scaled:
            fit = "\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi"
            inner = f"\\resizebox{{{fit}}}{{!}}{{%\n{inner}%\n}}"
        return f"{{{size}{inner}}}" if size else inner

    def height(own: Sequence[int], part: Sequence[Line]) -> float:
        there = signs(_texts([rows[0], *part], own)) if below else ()
        return high * (len(part) + 6) + sum(below.get(sign, 0.0) for sign in there)

    below = notes.heights(line)
    floats: list[str] = []
    left = 0.0
    for own in shown:
        for part in chunks(rows[1:], _PAGE, lambda some, own=own: height(own, some)):  # type: ignore[misc]
            needed = height(own, part)
            if needed <= left:
                floats[-1] += "\n\\par\\medskip\n" + tabular(own, part)
            else:
                floats.append(tabular(own, part))
                left = _PAGE
            left -= needed
    kind, place = ("table*", "t") if wide else ("table", "htbp")
    before = "% Made smaller where it is wider than the line: load graphicx for that.\n" if scaled else ""
    before += "\\providecommand{\\resizebox}[3]{#3}\n" if scaled else ""
    heads = [f"\\caption{{{caption}}}\n\\label{{{label}}}"]
    again = f"{title} (continued)" if title else "Continued"
    heads += [f"\\addtocounter{{table}}{{-1}}\n\\caption{{{again}}}"] * (len(floats) - 1)
    return before + "\n".join(
        f"\\begin{{{kind}}}[{place}]\n\\centering\n{above}\n{inner}{notes.tex(inner)}\n\\end{{{kind}}}\n"
        for above, inner in zip(heads, floats, strict=True)
    )


def _row(row: Line, own: Sequence[int]) -> str:
    """A row's cells in some columns; a title spans them."""
    if isinstance(row, str):
        return re.sub(r"^\\multicolumn\{\d+\}", rf"\\multicolumn{{{len(own)}}}", row)
    return " & ".join(row[i] for i in own) + r" \\"


def _texts(rows: Sequence[Line], own: Sequence[int]) -> str:
    """The cells of some rows in some columns, one after the other."""
    return " ".join(row[i] for row in rows if not isinstance(row, str) for i in own)


def document(style: str, names: Sequence[str], bibliography: str = "") -> str:
    """A document that shows tables, with nothing that ``texlive-latex-recommended`` lacks.

    Args:
        style: name of a style.
        names: files of the tables.
        bibliography: name of the ``.bib`` without its ending, empty for none.
    """
    shown = [f"\\input{{{name.removesuffix('.tex')}}}" for name in names]
    # Floats must not pile up, nor drift far from each other.
    body = "\n\\clearpage\n".join("\n".join(shown[i : i + 4]) for i in range(0, len(shown), 4))
    end = (
        f"\n\\clearpage\n\\bibliographystyle{{plain}}\n\\bibliography{{{bibliography}}}"
        if bibliography
        else ""
    )
    return (
        f"{STYLES[style].preamble}\\usepackage{{booktabs,graphicx}}\n\\extrafloats{{200}}\n"
        "\\setlength{\\belowcaptionskip}{6pt}\n\\makeatletter\\setlength{\\@fptop}{0pt}"
        "\\setlength{\\@dblfptop}{0pt}\\makeatother\n"
        f"\\begin{{document}}\n{body}{end}\n\\end{{document}}\n"
    )


def _character(character: str) -> str:
    """One character as LaTeX."""
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if " " <= character <= "~":
        return character
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?(\w+)", unicodedata.name(character, ""))
    if found and found[3] in _GREEK:
        if latin := _LATIN.get(f"{found[1]} {found[3]}"):
            return latin
        letter = found[3].lower().replace("lamda", "lambda")
        letter = f"var{letter}" if found[2] else letter.capitalize() if found[1] == "CAPITAL" else letter
        return f"$\\{letter}$"
    base, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"\\texttt{{{code(character)}}}"


def _cut(name: str, most: int) -> str:
    """The start of a name, with dots; what has no letters before them stays a name of dots."""
    shown = ""
    for character in name:
        if width(escape(shown + character)) > most:
            break
        shown += character
    return shown + "…"
