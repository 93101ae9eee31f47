"""The command line that a run was started by, without what is nobody else's business."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

# Stands for a value that is left out.
HIDDEN = "HIDDEN"
# An option or parameter whose name has one of these in it, or `key` as a word, holds a secret.
_SECRET = re.compile(r"token|passw|secret|credential|api_?key|(?<![a-z])keys?(?![a-z])", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
# `name=value` in --set, in the brackets of a method and in the query of an address.
_ASSIGNED = re.compile(r"(?P<name>[\w.-]+)=(?P<value>[^,&\]]*)")


def command_line(words: Sequence[str], home: Path | None = None) -> str:
    """Returns a command line as it would be typed, without secrets and with ``~`` for the home folder.

    Left out are the values of options and parameters that are named like a token, password, secret or key,
    and user names and passwords in addresses.

    Args:
        words: the words, without the program's own name.
        home: the home folder; ``None`` for the user's.
    """
    shown = list[str]()
    before = ""
    for word in words:
        follows = before.startswith("--") and "=" not in before and _SECRET.search(before)
        shown.append(HIDDEN if follows and not word.startswith("--") else _clean(word))
        before = word
    place = str(home or Path.home())
    if len(place) > 1:
        at_home = re.compile(rf"(?<![^\s=:,]){re.escape(place)}(?=[/:,\s]|$)")
        shown = [at_home.sub("~", word) for word in shown]
    return " ".join(["bench", *map(_quoted, shown)])


def _clean(word: str) -> str:
    word = _USERINFO.sub(f"{HIDDEN}@", word)
    return _ASSIGNED.sub(
        lambda found: f"{found['name']}={HIDDEN}" if _SECRET.search(found["name"]) else found[0], word
    )


def _quoted(word: str) -> str:
    # In quotes a shell would not take ~ for the home folder.
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") and word[2:] else shlex.quote(word)
