"""Shell completion, which is click's own: the README's line prints a script, and the script completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(sys.executable).with_name("bench")


def bench(**variables: str) -> str:
    done = subprocess.run(
        [BENCH], env=os.environ | variables, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_prints_a_script(shell: str) -> None:
    script = bench(_BENCH_COMPLETE=f"{shell}_source")
    assert "_bench_completion" in script
    assert f"_BENCH_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("bench doct", ["doctor"]),
        ("bench init m", ["method"]),
        ("bench run --backbone-w", ["--backbone-weights"]),
        ("bench run --evaluate n", ["native"]),
    ],
)
def test_it_completes(words: str, completed: list[str]) -> None:
    place = str(len(words.split()) - 1)
    found = bench(_BENCH_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    assert [line.partition(",")[2] for line in found.splitlines()] == completed


def test_the_readme_says_how() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    assert 'eval "$(_BENCH_COMPLETE=bash_source bench)"' in readme
