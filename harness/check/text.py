"""Names that others chose, and messages of failures, made harmless where a check shows them."""

from __future__ import annotations

import re
import unicodedata

# A line of a workflow's log that starts with the first, or holds the second, is a command to GitHub's runner.
_COMMANDS = re.compile(r"(?<=:):|(?<=#)#(?=\[)")
# Everything else could open markup, a link, HTML or a table's column in GitHub's Markdown.
_PLAIN_IN_MARKDOWN = re.compile(r"[^\w\s/.,=()+%·→−-]")


def plain(text: object) -> str:
    """Returns one line; what cannot be seen, or is a command to GitHub's runner, is named by its number."""
    seen = "".join(_code(c) if _unseen(c) else c for c in str(text))
    return _COMMANDS.sub(lambda found: _code(found[0]), seen)


def markdown(text: object) -> str:
    """Returns ``text`` as plain words of GitHub's Markdown, safe inside a table."""
    return _PLAIN_IN_MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", plain(text))


def annotation(level: str, title: str, message: str) -> str:
    """Returns a workflow command that marks the job, e.g. ``::error title=…::…``."""
    title = _percent(plain(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_percent(plain(message))}"


def _percent(text: str) -> str:
    return text.replace("%", "%25")


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _unseen(character: str) -> bool:
    # Cn: XML refuses U+FFFE and U+FFFF, and nobody can read what is not assigned.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
