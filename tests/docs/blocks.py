"""What the documentation asks its readers to type: commands, Python, TOML; found in README.md and docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from docs.site.pages import ROOT, documents

# What begins a command; an indented line that begins otherwise is no command but output, or an example file.
PROGRAMS = ("bench", "nox", ".venv/bin/", "python3", "pip", "source", "eval", "pytest", "ray ", "sbatch ")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LIST = re.compile(r"\s*([-*]|\d+\.) ")


@dataclass(frozen=True)
class Block:
    """One command or one piece of a file.

    Attributes:
        page: the page, relative to the repository.
        language: ``sh``, ``python``, ``toml``, or what else a fence says.
        text: a command without its comment and on one line; the whole of any other block.
    """

    page: str
    language: str
    text: str


def pages() -> list[str]:
    """Returns the pages with commands to run; the changelog only names them."""
    names = [path.relative_to(ROOT).as_posix() for path in documents()]
    return [name for name in names if name != "CHANGELOG.md"]


def blocks(page: str) -> list[Block]:
    """Returns what a page asks for, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[tuple[int, Block]] = []
    for match in _FENCE.finditer(text):
        language = {"bash": "sh", "": "text"}.get(match[1], match[1])
        parts = commands(match[2].splitlines()) if language == "sh" else [match[2]]
        found += [(match.start(), Block(page, language, part)) for part in parts]
    # Fences are blanked, so that what is indented in them is not found twice.
    rest = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for start, lines in _indented(rest):
        if lines[0].startswith(PROGRAMS):
            found += [(start, Block(page, "sh", part)) for part in commands(lines)]
        else:
            found.append(
                (start, Block(page, "toml" if lines[0].startswith("[") else "text", "\n".join(lines)))
            )
    return [block for _, block in sorted(found, key=lambda pair: pair[0])]


def _indented(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields blocks indented by four spaces that stand alone, not the later lines of a list's item."""
    place = 0
    for paragraph in re.split(r"\n{2,}", text):
        place = text.index(paragraph, place)
        lines = paragraph.strip("\n").splitlines()
        if lines and all(line.startswith("    ") for line in lines) and not _LIST.match(lines[0]):
            yield place, [line[4:] for line in lines]


def commands(lines: list[str]) -> list[str]:
    """Returns commands one by one: continued lines joined, comments cut off."""
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [line for raw in joined.splitlines() if (line := re.sub(r"\s+#.*$", "", raw).strip())]


def inline(page: str) -> list[str]:
    """Returns the commands of ``bench`` that stand in a page's sentences and tables."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return [" ".join(span.split()) for span in spans if span.startswith("bench ")]
