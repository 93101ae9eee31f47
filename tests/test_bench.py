"""The comparisons run; what they measure is for `nox -s bench` to say."""

from __future__ import annotations

import pytest

from tests.bench import gpu


@pytest.mark.slow
def test_the_gpus_comparisons_run_on_a_processor_too() -> None:
    for pair in gpu.pairs(rounds=1, batch=2, epochs=1, train=4):
        assert pair.ours() and pair.peer(), pair.name  # type: ignore[func-returns-value]
