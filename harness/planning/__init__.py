"""A suite → runs in their order: what is to do, what is done, and how long it takes.

Nothing is trained here, and no file of a result is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.planning.forecast import Forecast
    from harness.planning.order import in_order
    from harness.planning.plan import Options, Plan, make_plan
    from harness.planning.suites import load_suite, override, suite_names
    from harness.planning.task import RunTask

__all__ = [
    "Forecast",
    "Options",
    "Plan",
    "RunTask",
    "in_order",
    "load_suite",
    "make_plan",
    "override",
    "suite_names",
]

__getattr__ = lazy(
    __name__,
    {
        "Forecast": "forecast",
        "Options": "plan",
        "Plan": "plan",
        "RunTask": "task",
        "in_order": "order",
        "load_suite": "suites",
        "make_plan": "plan",
        "override": "suites",
        "suite_names": "suites",
    },
)
