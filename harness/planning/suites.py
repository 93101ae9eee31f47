"""Suites: named sets of runs, read from TOML files and changed by options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.common.errors import UserError, nearest
from harness.common.toml import read_toml
from harness.registry.names import parse_name, parse_value
from harness.spec.suite import Suite

SUITES = Path(__file__).parents[1] / "suites"


def suite_names() -> list[str]:
    """Returns the names of the built-in suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Reads a built-in suite by name, or any suite by the path of its TOML file.

    Raises:
        UserError: there is no such suite, or the file has a mistake.
    """
    path, fields = _read(name, SUITES, ())
    try:
        return Suite.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"Suite {path}: field '{where}': {first['msg']}.") from error


def _read(name: str, beside: Path, below: tuple[Path, ...]) -> tuple[Path, dict[str, Any]]:
    """Returns the path and the fields of a suite, with those that it has from the suite it extends.

    Args:
        name: as typed, or as ``extends`` says it.
        beside: folder that a relative path starts from, where ``extends`` gives one.
        below: the files that lead here by ``extends``.
    """
    own = name.endswith(".toml")
    path = Path(name).expanduser() if own else SUITES / f"{name}.toml"
    path = beside / path if own and below else path
    if not path.is_file():
        where = f"Suite {below[-1]}: field 'extends': " if below else ""
        if own:
            raise UserError(f"{where}There is no suite file {path}.")
        raise UserError(f"{where}There is no suite '{name}'. {nearest(name, suite_names())}")
    if path.resolve() in below:
        raise UserError(f"Suite {path}: field 'extends': it extends itself.")
    fields = read_toml(path, "Suite")
    parent = fields.pop("extends", None)
    if parent is None:
        return path, fields
    if not isinstance(parent, str):
        raise UserError(f"Suite {path}: field 'extends': give the name or the path of one suite.")
    _, base = _read(parent, path.parent, (*below, path.resolve()))
    return path, _merged(base, fields)


def _merged(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A suite's fields over those that it extends; in ``set`` parameter by parameter."""
    # What a suite says of itself is not what another says.
    found = {name: value for name, value in base.items() if name not in ("title", "about")} | fields
    old, new = base.get("set", {}), fields.get("set", {})
    if isinstance(old, dict) and (methods := fields.get("methods")) and "all" not in methods:
        # Its settings for methods that are not run any more say nothing.
        kept = {parse_name(name).short() for name in methods if isinstance(name, str)}
        old = {method: own for method, own in old.items() if method in kept}
        found["set"] = old
    # What is no table is left for the validation to name.
    if all(isinstance(one, dict) for one in (old, new)):
        pairs = {method: (old.get(method, {}), new.get(method, {})) for method in old | new}
        if all(isinstance(one, dict) for pair in pairs.values() for one in pair):
            found["set"] = {method: before | after for method, (before, after) in pairs.items()}
    return found


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
        given = {
            **given,
            "grid": {name: own for name, own in suite.grid.items() if everything or name in kept},
        }
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
