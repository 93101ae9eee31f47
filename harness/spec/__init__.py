"""The values that every room hands on: runs, records, fingerprints, protocols, suites, metrics.

Frozen and validated, without any work in them. A run's key and a record's form are decided here, so that
what is written today can be read in years.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.spec.efficiency import Efficiency, Quantity
    from harness.spec.fingerprints import Fingerprint, fingerprint
    from harness.spec.metrics import METRICS
    from harness.spec.names import slug
    from harness.spec.operating_points import Operating, Rate
    from harness.spec.protocols import PROTOCOLS, ImageFit, Protocol, unfilled, view
    from harness.spec.record import (
        KINDS_MEAN,
        SCHEMA_VERSION,
        EpochLog,
        Failure,
        Outcome,
        RunRecord,
        Timings,
        checksum,
    )
    from harness.spec.run import Evaluate, Identity, Keep, RunSpec, Scalar, Value, run_key, run_keys
    from harness.spec.suite import Suite

__all__ = [
    "KINDS_MEAN",
    "METRICS",
    "PROTOCOLS",
    "SCHEMA_VERSION",
    "Efficiency",
    "EpochLog",
    "Evaluate",
    "Failure",
    "Fingerprint",
    "Identity",
    "ImageFit",
    "Keep",
    "Operating",
    "Outcome",
    "Protocol",
    "Quantity",
    "Rate",
    "RunRecord",
    "RunSpec",
    "Scalar",
    "Suite",
    "Timings",
    "Value",
    "checksum",
    "fingerprint",
    "run_key",
    "run_keys",
    "slug",
    "unfilled",
    "view",
]

__getattr__ = lazy(
    __name__,
    {
        "Efficiency": "efficiency",
        "EpochLog": "record",
        "Evaluate": "run",
        "Failure": "record",
        "Fingerprint": "fingerprints",
        "Identity": "run",
        "KINDS_MEAN": "record",
        "Keep": "run",
        "METRICS": "metrics",
        "Operating": "operating_points",
        "Outcome": "record",
        "PROTOCOLS": "protocols",
        "Protocol": "protocols",
        "Quantity": "efficiency",
        "Rate": "operating_points",
        "RunRecord": "record",
        "RunSpec": "run",
        "SCHEMA_VERSION": "record",
        "Scalar": "run",
        "Suite": "suite",
        "Timings": "record",
        "Value": "run",
        "checksum": "record",
        "fingerprint": "fingerprints",
        "run_key": "run",
        "run_keys": "run",
        "slug": "names",
        "unfilled": "protocols",
        "view": "protocols",
        "ImageFit": "protocols",
    },
)
