"""The fixture by which an oracle test says how closely ours and theirs agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracles.agreement import PROPERTY, Agree, Agreement


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Agree:
    """``agree(subject, check, oracle, difference, allowed, unit)``: writes it down, then holds it."""

    def compared(
        subject: str, check: str, oracle: str, difference: float, allowed: float, unit: str = "relative"
    ) -> None:
        found = Agreement(subject, check, oracle, float(difference), allowed, unit)
        record_property(PROPERTY, found.as_property())
        assert found.difference <= allowed, f"{subject}, {check}: {difference:.3g} apart from {oracle}"

    return compared
