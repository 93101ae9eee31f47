"""Killed at random and started again, a suite ends with the records of an undisturbed one: a short form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.chaos import chaos
from tests.harness.places import make_place


@pytest.mark.slow
def test_killed_at_random_and_started_again_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", int.from_bytes(os.urandom(4))))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - shown where the test fails
    toll = chaos(make_place(tmp_path), runs=24, seed=seed, kills=6)
    assert toll.drivers + toll.workers >= 1, f"most moments hit nothing: {toll}"
