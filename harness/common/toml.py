"""TOML files that may come from anybody, read within limits."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from harness.common.errors import UserError
from harness.common.files import read_bounded

# The largest card that comes with ulsad-bench has a few kB.
LARGEST = 1024**2
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
# tomllib takes minutes for a key of some ten thousand parts.
_DEEP_KEY = re.compile(rf"{_PART}(?:\.[ \t]*{_PART}){{64,}}")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: the file.
        what: what it is, for the sentence, e.g. ``Dataset card``.

    Raises:
        UserError: it cannot be read, is no TOML, or is larger or nested deeper than any honest one.
    """
    try:
        text = read_bounded(path, LARGEST).decode("utf-8")
        if _DEEP_KEY.search(text):
            raise UserError(f"{what} {path} is not valid TOML: a key has more than 64 parts.")
        return tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    except RecursionError:
        raise UserError(f"{what} {path} is not valid TOML: it is nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, a number of too many digits
        raise UserError(f"{what} {path} is not valid TOML: {error}.") from error
