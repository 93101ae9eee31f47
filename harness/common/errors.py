"""Errors that a user can cause and mend."""

from __future__ import annotations

import difflib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What a user can mend: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with 2.
    """


class MissingError(UserError):
    """Something is not on this machine that ``bench prepare`` may fetch."""


class Terminated(KeyboardInterrupt):
    """The system has asked this process to end (SIGTERM)."""


def _raise() -> None:
    raise Terminated


@contextmanager
def terminable(then: Callable[[], None] = _raise) -> Iterator[None]:
    """Calls a function where the system asks this process to end; in the main thread, which alone is told.

    Args:
        then: by itself, raises :class:`Terminated`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: then())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"Did you mean 'a' or 'b'?"`` for the names closest to ``name``, else all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return f"Known: {', '.join(names)}." if names else "None is known."
