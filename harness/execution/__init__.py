"""A task → its record: one run in a worker, and the driver that hands runs to workers.

``pipeline`` is the driver, ``run`` is one run from its images to its record, and ``executors`` say where
workers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.execution.pipeline import run_plan
    from harness.execution.run import execute

__all__ = ["execute", "run_plan"]

__getattr__ = lazy(__name__, {"execute": "run", "run_plan": "pipeline"})
