"""Errors that a user can cause and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What a user can mend: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with 2.
    """


class MissingError(UserError):
    """Something is not on this machine that ``bench prepare`` may fetch."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"Did you mean 'a' or 'b'?"`` for the names closest to ``name``, else all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return f"Known: {', '.join(names)}." if names else "None is known."
