"""Time, memory and size of a method, and what disturbed their measuring.

``docs/efficiency.md`` defines each number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.profiling.efficiency import assess
    from harness.profiling.memory import PeakMemory
    from harness.profiling.timing import Stopwatch, repeat

__all__ = ["PeakMemory", "Stopwatch", "assess", "repeat"]

__getattr__ = lazy(
    __name__, {"PeakMemory": "memory", "Stopwatch": "timing", "assess": "efficiency", "repeat": "timing"}
)
