"""The command line in a record: what was typed, without what is secret."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness.cli.command_line import command_line

HOME = Path("/home/ada")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("run --suite paper --seeds 0-4", "bench run --suite paper --seeds 0-4"),
        ("run --data-root /home/ada/data", "bench run --data-root ~/data"),
        ("run --data-root=/home/ada", "bench run '--data-root=~'"),
        ("run --data-root /home/adam/data", "bench run --data-root /home/adam/data"),
        ("run --data-root /mnt/home/ada/data", "bench run --data-root /mnt/home/ada/data"),
        ("run --methods '/home/ada/my method.py:Mine'", "bench run --methods ~/'my method.py:Mine'"),
        ("run --api-token abc --quiet", "bench run --api-token HIDDEN --quiet"),
        ("run --api-token=abc", "bench run --api-token=HIDDEN"),
        ("run --set m.hub_token=abc --set m.epochs=3", "bench run --set m.hub_token=HIDDEN --set m.epochs=3"),
        ("run --methods m[api_key=abc,k=3]", "bench run --methods 'm[api_key=HIDDEN,k=3]'"),
        ("run --methods m[secret=abc]", "bench run --methods 'm[secret=HIDDEN]'"),
        ("run --set m.apiKey=abc", "bench run --set m.apiKey=HIDDEN"),
        ("run --set m.PASSWORD=abc=def", "bench run --set m.PASSWORD=HIDDEN"),
        ("run --address ray://me:pw@host:10001", "bench run --address ray://HIDDEN@host:10001"),
        ("run --x https://a.b/c?token=abc&d=1", "bench run --x 'https://a.b/c?token=HIDDEN&d=1'"),
        ("run --keep maps --set m.keep=2", "bench run --keep maps --set m.keep=2"),
        ("run --set m.monkey=2", "bench run --set m.monkey=2"),
        ("run --key --quiet", "bench run --key --quiet"),
    ],
)
def test_secrets_and_the_home_folder_are_left_out(typed: str, shown: str) -> None:
    assert command_line(shlex.split(typed), HOME) == shown


def test_a_home_that_is_the_root_hides_nothing() -> None:
    assert command_line(["run", "--data-root", "/data"], Path("/")) == "bench run --data-root /data"
