"""What the installed anomalib offers, read from its source without importing it (which takes seconds)."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

_PLAIN: Mapping[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_SEQUENCES = {"list", "tuple", "Sequence"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model's constructor that a name can carry.

    Attributes:
        annotation: its type, lists for every kind of sequence.
        default: its default, lists for tuples.
    """

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Source:
    """A model's Lightning module, as its source says.

    Attributes:
        name: the class.
        module: where it is imported from.
        parameters: those of simple types; the others keep anomalib's default.
        accepted: the names of all parameters.
        about: first line of the module's docstring.
        url: the first address of a paper in that docstring, empty for none.
    """

    name: str
    module: str
    parameters: Mapping[str, Parameter]
    accepted: frozenset[str]
    about: str
    url: str


def image_models() -> dict[str, Source]:
    """Returns every image model of the installed anomalib by class name; none without anomalib."""
    spec = importlib.util.find_spec("anomalib")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "models" / "image"
    sources = {}
    for path in sorted(folder.glob("*/lightning_model.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = _exported(path.parent / "__init__.py")
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                sources[node.name] = _source(node, ast.get_docstring(tree) or "", path)
    return sources


def _exported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("lightning_model")
        for alias in node.names
    }


def _source(node: ast.ClassDef, text: str, path: Path) -> Source:
    parameters: dict[str, Parameter] = {}
    accepted: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.args[1:], *item.args.kwonlyargs]
            accepted = {argument.arg for argument in arguments}
            defaults = [*item.args.defaults, *item.args.kw_defaults]
            for argument, default in zip(arguments[-len(defaults) :], defaults, strict=True):
                if (parameter := _parameter(argument.annotation, default)) is not None:
                    parameters[argument.arg] = parameter
    words = text.replace("<", " ").replace(">", " ").split()
    urls = [w.strip("().,`\"'") for w in words if "arxiv.org" in w]
    return Source(
        name=node.name,
        module=f"anomalib.models.image.{path.parent.name}",
        parameters=parameters,
        accepted=frozenset(accepted),
        about=text.strip().splitlines()[0].rstrip(".") if text.strip() else node.name,
        url=urls[0] if urls else "",
    )


def _parameter(annotation: ast.expr | None, default: ast.expr | None) -> Parameter | None:
    """Returns a parameter of a simple type with a plain default, else ``None``."""
    if annotation is None or default is None:
        return None
    try:
        value = ast.literal_eval(default)
        kind = _type(annotation)
    except (ValueError, TypeError):
        return None
    return Parameter(kind, list(value) if isinstance(value, tuple) else value)


def _type(node: ast.expr) -> Any:
    """Returns the type that an annotation means.

    Raises:
        ValueError: it is not made of numbers, text, truth values, literals, sequences of these and None.
    """
    match node:
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _type(left), _type(right)
            return Union[one, other]  # noqa: UP007 - made at run time
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _SEQUENCES:
            first = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            return list[_type(first)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return Literal[tuple(ast.literal_eval(v) for v in values)]
    raise ValueError(ast.unparse(node))
