"""Harmless file names, and short digests of values."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


def slug(name: str) -> str:
    """Returns ``name`` as a harmless file name, distinct names staying distinct."""
    safe = _UNSAFE.sub("_", name).lstrip("._-").rstrip("._") or "_"
    if safe == name and len(safe) <= 80:
        return safe
    # A command line may hold bytes that are no text: lone surrogates.
    return f"{safe[:60]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def canonical(value: Any) -> str:
    """Returns a value as JSON that is the same wherever it is written."""
    return _CANONICAL.encode(value)


def short_digest(text: str) -> str:
    """Returns 16 digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(value: Any) -> str:
    """Returns :func:`short_digest` of a value's JSON."""
    return short_digest(canonical(value))
