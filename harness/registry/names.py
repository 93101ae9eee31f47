"""Names of methods as they are typed: ``ulsad[lambda_l=0]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UserError

_NAME = re.compile(r"^(?P<base>[^\[\]]+?)\s*(?:\[(?P<params>.*)\])?$", re.DOTALL)


@dataclass(frozen=True)
class MethodName:
    """A method as typed by a user.

    Attributes:
        base: name of an entry point, ``family:Member``, or ``/absolute/path/to/file.py:Class``.
        params: parameters given in brackets, as text or lists of text.
    """

    base: str
    params: Mapping[str, str | list[str]]

    @property
    def is_file(self) -> bool:
        """Whether the method comes from a file rather than an entry point."""
        return ".py:" in self.base

    @property
    def path(self) -> Path:
        """The file of a private method."""
        return Path(self.base.rpartition(":")[0])

    def short(self) -> str:
        """The name without folders: ``file.py:Class`` for a private method."""
        return f"{self.path.name}:{self.base.rpartition(':')[2]}" if self.is_file else self.base


def split_names(text: str) -> list[str]:
    """Splits ``a,b[x=1,y=[2,3]],c`` at the commas outside brackets; empty parts are dropped."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [p.strip() for p in [*parts, part] if p.strip()]


def parse_value(text: str) -> str | list[str]:
    """Reads a parameter's value as typed: ``[a,b]`` is a list, anything else stays text."""
    value = text.strip()
    is_list = value.startswith("[") and value.endswith("]")
    return split_names(value[1:-1]) if is_list else value


def parse_name(text: str) -> MethodName:
    """Takes a typed name apart.

    Raises:
        UserError: the brackets or an assignment in them are malformed.
    """
    match = _NAME.match(text.strip())
    if match is None:
        raise UserError(f"Method '{text}' is not of the form name or name[parameter=value,...].")
    params: dict[str, str | list[str]] = {}
    for item in split_names(match["params"] or ""):
        name, equals, value = (p.strip() for p in item.partition("="))
        if not name or not equals:
            raise UserError(f"Method '{text}': '{item}' is not of the form parameter=value.")
        if name in params:
            raise UserError(f"Method '{text}': parameter '{name}' is given twice.")
        params[name] = parse_value(value)
    base = match["base"].strip()
    if ".py:" in base:
        file, _, name = base.rpartition(":")
        base = f"{Path(file).expanduser().resolve()}:{name}"
    return MethodName(base, params)
