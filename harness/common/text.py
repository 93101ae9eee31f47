"""Text that others chose, made harmless where people and other programs read it."""

from __future__ import annotations

import re
import unicodedata

# What makes a spreadsheet take a cell for a formula, at full width too.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Joiners and tags belong to emoji and to scripts; the other format characters only deceive.
_JOINERS = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_SPACES = {"\t", "\n", "\r"}
# A line of a workflow's log that starts with the first, or holds the second, is a command to GitHub's runner.
_COMMANDS = re.compile(r"(?<=:):|(?<=#)#(?=\[)")
# Everything else could open markup, a link, HTML or a table's column in GitHub's Markdown.
_PLAIN_IN_MARKDOWN = re.compile(r"[^\w\s/.,=()+%·→−-]")


def code(character: str) -> str:
    """Returns ``U+202E``: a character by its number."""
    return f"U+{ord(character):04X}"


def visible(text: str) -> str:
    """Returns text in which what cannot be seen, or turns the text around, is named by its number."""
    # What is printable throughout, as nearly all names and lines are, has nothing to name.
    if text.replace("\n", "").isprintable():
        return text
    return "".join(code(c) if _unseen(c) and c not in _SPACES else c for c in text)


def cell(text: str) -> str:
    """Returns text that no spreadsheet reads as a formula: an apostrophe goes before what may start one."""
    # Not every version of Python's writer quotes a lone carriage return, which ends a row for readers.
    shown = visible(text).replace("\r", code("\r"))
    return f"'{shown}" if text.startswith(FORMULA) else shown


def plain(text: object) -> str:
    """Returns one line; what cannot be seen, or is a command to GitHub's runner, is named by its number."""
    seen = "".join(code(c) if _unseen(c) else c for c in str(text))
    return _COMMANDS.sub(lambda found: code(found[0]), seen)


def markdown(text: object) -> str:
    """Returns ``text`` as plain words of GitHub's Markdown, safe inside a table."""
    return _PLAIN_IN_MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", plain(text))


def annotation(level: str, title: str, message: str) -> str:
    """Returns a workflow command that marks the job, e.g. ``::error title=…::…``."""
    title = _percent(plain(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_percent(plain(message))}"


def _percent(text: str) -> str:
    return text.replace("%", "%25")


def _unseen(character: str) -> bool:
    # Cn: XML refuses U+FFFE and U+FFFF, and nobody can read what is not assigned.
    unreadable = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
    return unreadable and character not in _JOINERS
