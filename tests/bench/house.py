"""What the harness itself costs: planning, the scan before resuming, and runs against bare scripts."""

from __future__ import annotations
