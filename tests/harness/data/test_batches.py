"""Batches that are read ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from harness.data.batches import ahead, to_device


def test_all_come_in_their_order() -> None:
    assert list(ahead(range(100))) == list(range(100))
    assert list(ahead([])) == []
    assert list(ahead([None, 0, None])) == [None, 0, None]
    batches = [torch.full((2,), i) for i in range(5)]
    assert [int(b[0]) for b in to_device(batches, torch.device("cpu"))] == [0, 1, 2, 3, 4]


def test_the_next_is_made_while_one_is_in_use_and_no_more() -> None:
    made, second = [], threading.Event()

    def source() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    coming = ahead(source())
    assert next(coming) == 0
    assert second.wait(10)
    assert made == [0, 1]
    coming.close()
    assert made == [0, 1], "nothing is read for nobody"


def test_a_failure_comes_where_the_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    coming = ahead(source())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="broken"):
        next(coming)
