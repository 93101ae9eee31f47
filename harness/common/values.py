"""The base of all values that cross a seam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know, and numbers that JSON has not."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def at_defaults(value: Frozen, later: Mapping[str, Any]) -> set[str]:
    """The fields that came later and have their defaults."""
    return {name for name, default in later.items() if getattr(value, name) == default}
