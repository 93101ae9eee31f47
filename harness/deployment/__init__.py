"""A trained run used again: its method with what it has learned, predictions, exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.deployment.trained import find_run, trained_method

__all__ = ["find_run", "trained_method"]

__getattr__ = lazy(__name__, {"find_run": "trained", "trained_method": "trained"})
