"""The comparisons run; what they measure is for `nox -s bench` to say."""

from __future__ import annotations

import pytest

from tests.bench import gpu


@pytest.mark.slow
def test_the_gpus_comparisons_run_on_a_processor_too() -> None:
    for pair in gpu.pairs(1, 1, 1, 4, ("vgg11", "resnet18"), trial=True):
        assert pair.ours() and pair.peer(), pair.name  # type: ignore[func-returns-value]
