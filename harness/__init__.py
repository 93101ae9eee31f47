"""The engine of ulsad-bench: suite → plan → run → record → table → leaderboard.

Importing this package loads neither torch nor pandas; the names below are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.common.errors import UserError
    from harness.execution.workflow import Results, run
    from harness.method import (
        Asset,
        Backbone,
        Citation,
        Epoch,
        Hyperparameters,
        Images,
        Method,
        Needs,
        Prediction,
        Setup,
        TrainingData,
    )
    from harness.planning.options import RunOptions
    from harness.spec.protocols import Protocol
    from harness.spec.record import RunRecord
    from harness.spec.run import RunSpec
    from harness.spec.suite import Suite

__version__ = "0.1.0"

_HOMES = {
    "UserError": "harness.common.errors",
    "Results": "harness.execution.workflow",
    "RunOptions": "harness.planning.options",
    "run": "harness.execution.workflow",
    "Asset": "harness.method",
    "Backbone": "harness.method",
    "Citation": "harness.method",
    "Epoch": "harness.method",
    "Hyperparameters": "harness.method",
    "Images": "harness.method",
    "Method": "harness.method",
    "Needs": "harness.method",
    "Prediction": "harness.method",
    "Setup": "harness.method",
    "TrainingData": "harness.method",
    "Protocol": "harness.spec",
    "RunRecord": "harness.spec",
    "RunSpec": "harness.spec",
    "Suite": "harness.spec",
}

__all__ = [
    "Asset",
    "Backbone",
    "Citation",
    "Epoch",
    "Hyperparameters",
    "Images",
    "Method",
    "Needs",
    "Prediction",
    "Protocol",
    "Results",
    "RunOptions",
    "RunRecord",
    "RunSpec",
    "Setup",
    "Suite",
    "TrainingData",
    "UserError",
    "__version__",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
