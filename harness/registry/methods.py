"""Finding methods by name: entry points, private files, and parameters in the name.

``ulsad``, ``ulsad[lambda_l=0,backbone=resnet152]``, ``path/to/file.py:MyMethod[width=3]``, and members of a
family, ``anomalib:Stfpm``. Listing methods imports none of them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.common.errors import UserError, nearest
from harness.registry.names import MethodName

if TYPE_CHECKING:
    from harness.method import Hyperparameters, Method

GROUP = "ulsad_bench.methods"
FAMILIES = "ulsad_bench.families"


def method_names() -> list[str]:
    """Returns the names of all installed methods, importing none."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def stated_versions() -> dict[str, int]:
    """Returns the version of each installed method, read in its source: importing all takes many seconds.

    A method whose class does not state a number there is left out.
    """
    found = {point.name: _stated_version(point) for point in entry_points(group=GROUP)}
    return {name: version for name, version in found.items() if version is not None}


def _stated_version(point: EntryPoint) -> int | None:
    try:
        spec = importlib.util.find_spec(point.module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (ImportError, OSError, SyntaxError, ValueError):
        # What cannot be loaded is said when it is to run; here it only states nothing.
        return None
    for line in (line for node in classes if node.name == point.attr for line in node.body):
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and target.id == "version":
            value = line.value if isinstance(line, (ast.Assign, ast.AnnAssign)) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                return value.value
    return None


def family_names() -> list[str]:
    """Returns the names of all installed families of methods, importing none."""
    return sorted({point.name for point in entry_points(group=FAMILIES)})


def family_members(family: str) -> Mapping[str, str]:
    """Returns the members of a family, each with why it cannot run here (empty if it can).

    A family's entry point is a module with ``models() -> Mapping[str, str]``, which gives just this, and
    ``load(name) -> type[Method]``.
    """
    members: Mapping[str, str] = _family(family).models()
    return members


def family_measured(family: str) -> Mapping[str, str]:
    """Returns in words what was measured of a family's members, if its module has such a ``measured()``."""
    measured: Mapping[str, str] = getattr(_family(family), "measured", dict)()
    return measured


def _family(name: str) -> Any:
    return _import(next(point for point in entry_points(group=FAMILIES) if point.name == name))


def _member(family: str, member: str) -> type[Method]:
    members = family_members(family)
    if not members:
        raise UserError(
            f"Family '{family}' has no methods here: install what it needs, e.g. "
            f'pip install "ulsad-bench[{family}]".'
        )
    if member not in members:
        raise UserError(f"Family '{family}' has no method '{member}'. {nearest(member, members)}")
    if members[member]:
        raise UserError(f"Method '{family}:{member}' cannot run here: it {members[member]}.")
    return _checked(_family(family).load(member), f"Method '{family}:{member}'")


def load_method(base: str) -> type[Method]:
    """Imports a method's class by the base of its name.

    Raises:
        UserError: there is no such method, or its file or class is not what it should be.
    """
    if ".py:" in base:
        path, _, name = base.rpartition(":")
        return _from_file(Path(path), name)
    family, colon, member = base.partition(":")
    if colon and family in family_names():
        return _member(family, member)
    points = {point.name: point for point in entry_points(group=GROUP)}
    if base not in points:
        raise UserError(
            f"There is no method '{base}'. {nearest(base, points)} "
            "A method of your own is given as path/to/file.py:ClassName."
        )
    return _checked(_import(points[base]), f"Method '{base}'")


def _import(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ImportError as error:
        raise UserError(
            f"Method '{point.name}' cannot be imported ({error}): install what it needs."
        ) from error


def _from_file(path: Path, name: str) -> type[Method]:
    if not path.is_file():
        raise UserError(f"There is no file {path}, given for method '{name}'.")
    module_name = f"bench_private_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # pydantic looks annotations up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            line = _line_in(error, path)
            raise UserError(
                f"{path} cannot be imported: {type(error).__name__}{line}: {error}. Mend the file."
            ) from error
    if not hasattr(module, name):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name]
        raise UserError(f"{path} has no class '{name}'. {nearest(name, classes)}")
    return _checked(getattr(module, name), f"{path}:{name}")


def _line_in(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _checked(method: Any, where: str) -> type[Method]:
    from harness.method import Citation, Hyperparameters, Method

    if not (inspect.isclass(method) and issubclass(method, Method)):
        raise UserError(f"{where} is no subclass of harness.Method.")
    missing = sorted(getattr(method, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{where} has no {', '.join(missing)}.")
    for attribute, kind in (("version", int), ("citation", Citation)):
        if not isinstance(getattr(method, attribute, None), kind):
            raise UserError(f"{where} must state '{attribute}', a {kind.__name__}.")
    if not (inspect.isclass(method.Config) and issubclass(method.Config, Hyperparameters)):
        raise UserError(f"{where}: Config must be a subclass of harness.Hyperparameters.")
    return method


def source_hash(name: MethodName) -> str:
    """Returns the SHA-256 of a private method's file, empty for an installed method.

    An installed method raises its ``version`` when results change; a file in the making is edited instead.
    """
    return hashlib.sha256(name.path.read_bytes()).hexdigest()[:16] if name.is_file else ""


def configure(method: type[Method], label: str, params: Mapping[str, Any]) -> Hyperparameters:
    """Returns the validated hyper-parameters of a method.

    Raises:
        UserError: a parameter is unknown, of the wrong type or out of range.
    """
    unknown = [name for name in params if name not in method.Config.model_fields]
    if unknown:
        known = method.Config.model_fields
        raise UserError(
            f"Method '{label}' has no hyper-parameter '{unknown[0]}'. {nearest(unknown[0], known)}"
        )
    try:
        return method.Config.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        value = f" = {first['input']!r}" if where else ""
        field = f"hyper-parameter '{where}'{value}: " if where else ""
        raise UserError(f"Method '{label}', {field}{message[:1].lower()}{message[1:]}.") from error
