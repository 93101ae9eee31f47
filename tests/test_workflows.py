"""Workflows: pinned, with least permissions, no fork's code on one's own runner, and commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from harness.cli.main import main

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    # The base loader keeps the key `on` from becoming a truth value.
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    return loaded


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def check_command(line: str, whole: bool = True) -> None:
    """Fails if a command line of `bench` names a command or option that there is not.

    One that is not ``whole``, as a sentence names it, may lack a command and arguments.
    """
    words = shlex.split(line.partition("#")[0])
    assert words.pop(0).removeprefix(".venv/bin/") == "bench"
    command: click.Command = main
    context = click.Context(main, info_name="bench")
    while isinstance(command, click.Group) and (whole or words):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(context.info_name, list(words), resilient_parsing=not whole)


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.match(r" *(\.venv/bin/)?bench ", line)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    pinned = {action.partition("@")[0].split("/")[1]: action.partition("@")[2] for action in used}
    assert all(action.endswith(pinned[action.split("/")[1].split("@")[0]]) for action in used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_permissions_are_the_least(path: Path) -> None:
    workflow = read(path)
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"])
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] in ({}, {"contents": "read"})
        assert int(job["timeout-minutes"])
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"
        # What somebody else wrote reaches a shell by the environment only.
        assert "${{" not in step.get("run", "")
    assert "secrets" not in path.read_text(encoding="utf-8")


def test_no_forks_code_on_ones_own_runner() -> None:
    ours = "github.event.pull_request.head.repo.full_name == github.repository"
    own = [
        job for path in WORKFLOWS for job in read(path)["jobs"].values() if "self-hosted" in job["runs-on"]
    ]
    assert [job["if"].strip() for job in own] == [f"github.event_name != 'pull_request' || {ours}"]


def test_only_the_nightly_check_writes_caches() -> None:
    used = [step for path in WORKFLOWS for step in steps(read(path)) if "/cache" in step.get("uses", "")]
    assert len(used) == 4
    for step in used:
        assert "/cache/restore@" in step["uses"] or step["if"].startswith(
            "github.event_name == 'schedule' &&"
        )


def test_every_command_of_a_workflow_exists() -> None:
    lines = [
        line for path in WORKFLOWS for step in steps(read(path)) for line in commands(step.get("run", ""))
    ]
    assert len(lines) >= 6
    for line in lines:
        check_command(line)
    with pytest.raises(click.NoSuchOption):
        check_command("bench run --sweet ci")


def test_every_command_of_the_docs_on_ci_exists() -> None:
    lines = commands((ROOT / "docs/ci.md").read_text(encoding="utf-8"))
    assert len(lines) == 5
    for line in lines:
        check_command(line)


def test_every_session_of_a_workflow_exists() -> None:
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in (*WORKFLOWS, ROOT / ".ci/run")]
    named = {
        word for text in texts for found in re.findall(r"bin/nox -s ([\w ]+)", text) for word in found.split()
    }
    assert {"lint", "types", "workflows", "tests"} <= named <= sessions


def test_the_caches_are_of_files_that_exist() -> None:
    for path in WORKFLOWS:
        for files in re.findall(r"hashFiles\((.*?)\)", path.read_text(encoding="utf-8")):
            for name in re.findall("'(.*?)'", files):
                assert (ROOT / name).is_file(), name
