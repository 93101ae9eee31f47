"""Suites: named sets of runs, read from TOML files and changed by options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import UserError, nearest
from harness.registry import parse_name, parse_value
from harness.spec import Suite
from harness.toml import read_toml

SUITES = Path(__file__).parent / "suites"


def suite_names() -> list[str]:
    """Returns the names of the built-in suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Reads a built-in suite by name, or any suite by the path of its TOML file.

    Raises:
        UserError: there is no such suite, or the file has a mistake.
    """
    path = Path(name).expanduser() if name.endswith(".toml") else SUITES / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UserError(f"There is no suite file {path}.")
        raise UserError(f"There is no suite '{name}'. {nearest(name, suite_names())}")
    try:
        return Suite.model_validate(read_toml(path, "Suite"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"Suite {path}: field '{where}': {first['msg']}.") from error


def override(suite: Suite, given: Mapping[str, Any], assignments: Sequence[str]) -> Suite:
    """Returns a suite with some fields replaced, and ``METHOD.PARAM=VALUE`` assignments added.

    Raises:
        UserError: an assignment is malformed.
    """
    parameters = {method: dict(values) for method, values in suite.set.items()}
    if "methods" in given:
        # A suite's settings for methods that are not run any more say nothing.
        kept = {parse_name(name).short() for name in given["methods"]}
        everything = "all" in given["methods"]
        parameters = {name: values for name, values in parameters.items() if everything or name in kept}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        method, dot, parameter = target.strip().rpartition(".")
        if not (equals and dot and method and parameter):
            raise UserError(
                f"--set {assignment} is not of the form METHOD.PARAM=VALUE, e.g. ulsad.epochs=20."
            )
        parsed: Any = parse_value(value)
        parameters.setdefault(method, {})[parameter] = parsed
    return suite.model_copy(update={**given, "set": parameters})
