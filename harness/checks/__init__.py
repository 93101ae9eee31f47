"""What looks and changes nothing: at records, datasets, methods, results over time, this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.checks.doctor import examine
    from harness.checks.records import verify

__all__ = ["examine", "verify"]

__getattr__ = lazy(__name__, {"examine": "doctor", "verify": "records"})
