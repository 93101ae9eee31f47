"""``references.bib`` from the records: every entry once, and none that can harm a document."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from reports.tables.latex import escape

_TYPES = {"article", "book", "inproceedings", "incollection", "phdthesis", "mastersthesis", "techreport"}
# What a BibTeX field may hold beside plain text: braces, accents, letters of other alphabets, escapes.
_TOKEN = re.compile(
    r"""\\["'`^~=.](?:\{\\?[A-Za-z]\}|\\[ij](?![A-Za-z])|[A-Za-z])"""
    r"|\\[uvHcrdb](?:\{[A-Za-z]\}|[ ][A-Za-z])"
    r"|\\(?:aa|AA|ae|AE|oe|OE|o|O|ss|l|L|i|j)(?![A-Za-z])"
    r"|\\[&%$\#_]"
    r"|[{}~]"
)


@dataclass(frozen=True)
class Bibliography:
    """The entries of a report.

    Attributes:
        text: content of the ``.bib``, empty where no record names a paper.
        keys: citation key by the text that the record holds.
    """

    text: str
    keys: Mapping[str, str]


def bibliography(citations: Iterable[str]) -> Bibliography:
    """Returns the entries of records' citations; equal ones share a key, unequal ones never do."""
    entries: dict[str, str] = {}
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for citation in sorted(set(citations)):
        parsed = _parse(citation)
        if parsed is None:
            continue
        kind, key, body = parsed
        whole = f"{kind}{body}"
        if whole not in entries:
            # BibTeX holds keys that differ in case only for one.
            wanted, count = key, 1
            while key.lower() in taken:
                count += 1
                key = f"{wanted}-{count}"
            taken.add(key.lower())
            entries[whole] = f"@{kind}{{{key},\n{body}\n}}\n"
            keys[citation] = key
        else:
            keys[citation] = entries[whole].partition("{")[2].partition(",")[0]
    return Bibliography("\n".join(entries.values()), keys)


def _parse(citation: str) -> tuple[str, str, str] | None:
    """The type, key and fields of the first entry of a text, or ``None`` where it names no title."""
    found = re.match(r"\s*@(\w+)\s*\{([^,]*),", citation)
    if not found:
        return None
    kind = found[1].lower() if found[1].lower() in _TYPES else "misc"
    key = re.sub(r"[^A-Za-z0-9:.+_-]+", "-", found[2].strip())[:60].strip("-") or "method"
    fields: dict[str, str] = {}
    rest = citation[found.end() :]
    while named := re.match(r"\s*,?\s*([A-Za-z][A-Za-z-]*)\s*=\s*", rest):
        value, rest = _value(rest[named.end() :])
        name = named[1].lower()
        if shown := _url(value) if name in {"url", "doi"} else _safe(value):
            fields.setdefault(name, shown)
    if "title" not in fields:
        return None
    return kind, key, ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())


def _value(text: str) -> tuple[str, str]:
    """The value that a text starts with, without its braces or quotes, and what follows it."""
    if not text.startswith(("{", '"')):
        bare = re.match(r"\w*", text)
        return (bare[0], text[bare.end() :]) if bare else ("", text)
    depth = 0
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if place and depth == 0 and character == ("}" if text[0] == "{" else '"'):
            return text[1:place], text[place + 1 :]
    return text[1:], ""


def _safe(value: str) -> str:
    """A field's value with no command in it but accents, and with every brace closed."""
    plain = unicodedata.normalize("NFC", " ".join(value.split()))
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        plain = plain.replace("{", "").replace("}", "")
    parts, end = [], 0
    for token in _TOKEN.finditer(plain):
        parts += [_text(plain[end : token.start()]), token[0]]
        end = token.end()
    return "".join([*parts, _text(plain[end:])]).strip()


def _text(text: str) -> str:
    """Plain text within a field; BibTeX counts every brace, escaped ones too."""
    plain = escape(text).removeprefix("{}" if text.startswith(("[", "*")) else "")
    # In braces of its own BibTeX takes an accented letter for one letter.
    return re.sub(r"""\\["'`^~=.uvHcrd]\{[A-Za-z]\}""", r"{\g<0>}", plain)


def _url(value: str) -> str:
    return quote(value.strip(), safe="/:?&=#%+,;@!*()~-._")
