"""What knows nothing of benchmarks: errors, files, text, downloads, archives, threads.

Everything else may import it; it imports nothing of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.common.errors import UserError, nearest

__all__ = ["UserError", "nearest"]

__getattr__ = lazy(__name__, {"UserError": "errors", "nearest": "errors"})
