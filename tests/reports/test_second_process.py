"""Work in a copied process: done, or its failure told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from reports.second_process import beside


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.mark.parametrize("worth", [False, True])
def test_what_is_written_is_there_afterwards(worth: bool, tmp_path: Path) -> None:
    with beside(lambda: (tmp_path / "a").write_text(str(os.getpid())) and None, worth):
        (tmp_path / "b").write_text("b")
    assert (int((tmp_path / "a").read_text()) != os.getpid()) == worth
    assert (tmp_path / "b").is_file()


@pytest.mark.parametrize("worth", [False, True])
def test_a_failure_is_raised_here(worth: bool) -> None:
    def work() -> None:
        raise PermissionError(13, "no entry")

    with pytest.raises(PermissionError, match="no entry"), beside(work, worth):
        pass


def test_a_killed_copy_is_told() -> None:
    with (
        pytest.raises(RuntimeError, match="was killed"),
        beside(lambda: os.kill(os.getpid(), signal.SIGKILL), True),
    ):
        pass


def test_a_failing_body_ends_the_copy(tmp_path: Path) -> None:
    def work() -> None:
        time.sleep(5)
        (tmp_path / "late").write_text("")

    began = time.perf_counter()
    with pytest.raises(KeyError), beside(work, True):
        raise KeyError("body")
    assert time.perf_counter() - began < 4
    assert not (tmp_path / "late").exists()


def _beside_in_a_pool(path: Path) -> None:
    with beside(lambda: path.write_text("written"), worth=True):
        pass


def test_a_pools_process_which_may_have_no_children_does_it_itself(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(_beside_in_a_pool, (tmp_path / "file",))
    assert (tmp_path / "file").read_text() == "written"
