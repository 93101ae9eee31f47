"""The methods of a suite with their hyper-parameters: everything about them that needs no file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from harness.common.errors import UserError, nearest
from harness.method import Hyperparameters, Method, Needs
from harness.registry.methods import configure, load_method, method_names
from harness.registry.names import MethodName, parse_name
from harness.spec.suite import Suite


@dataclass(frozen=True)
class Configured:
    """A method with its settings.

    Attributes:
        label: the name as it stands in records, in canonical form.
        params: hyper-parameters that differ from the method's defaults.
        needs: what it needs under ``config``.
    """

    label: str
    name: MethodName
    method: type[Method]
    config: Hyperparameters
    params: dict[str, Any]
    needs: Needs


def configure_methods(suite: Suite) -> list[Configured]:
    """Returns the methods of a suite, in its order.

    Raises:
        UserError: a method or a hyper-parameter does not exist or is out of range.
    """
    names: list[str] = []
    for name in suite.methods:
        names += method_names() if name == "all" else [name]
    parsed = {name: parse_name(name) for name in dict.fromkeys(names)}
    short = {name.short() for name in parsed.values()}
    stray = sorted(set(suite.set) - short)
    if stray:
        raise UserError(
            f"A parameter is set for method '{stray[0]}', which is not run. {nearest(stray[0], short)}"
        )
    if not parsed:
        raise UserError(f"No method is given. {nearest('', method_names())}")
    return [configured_as(name, suite) for name in parsed.values()]


def configured_as(name: MethodName, suite: Suite) -> Configured:
    """Returns a method with the settings of its name, and for the rest those of the suite.

    Raises:
        UserError: the method or a hyper-parameter does not exist or is out of range.
    """
    method = load_method(name.base)
    given: dict[str, Any] = dict(suite.set.get(name.short(), {}))
    if suite.backbone and "backbone" in method.Config.model_fields:
        given.setdefault("backbone", suite.backbone)
    config = configure(method, name.short(), {**given, **name.params})
    values = config.model_dump(mode="json")
    inside = ",".join(f"{key}={text(values[key])}" for key in sorted(name.params))
    label = name.short() + (f"[{inside}]" if inside else "")
    defaults = {
        key: info.get_default(call_default_factory=True) for key, info in method.Config.model_fields.items()
    }
    params = {key: value for key, value in values.items() if getattr(config, key) != defaults[key]}
    return Configured(label, name, method, config, params, method.needs(config))


def check_needs(one: Configured, suite: Suite) -> None:
    """Makes sure that a method's modules are installed and that it takes the suite's image size.

    Raises:
        UserError: they are not, or it does not.
    """
    needs = one.needs
    missing = [module for module in needs.modules if not _is_there(module)]
    if missing:
        extra = f': pip install "ulsad-bench[{needs.extra}]"' if needs.extra else ""
        raise UserError(
            f"Method '{one.label}' needs the module '{missing[0]}', which is not installed{extra}."
        )
    if suite.image_size < needs.image_size_least:
        raise UserError(
            f"Method '{one.label}' needs an image size of at least {needs.image_size_least}, "
            f"not {suite.image_size}."
        )
    if suite.image_size % needs.image_size_multiple:
        raise UserError(
            f"Method '{one.label}' needs an image size divisible by {needs.image_size_multiple}, "
            f"not {suite.image_size}."
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it lies in
        return False


def text(value: Any) -> str:
    """Returns a hyper-parameter's value as it stands in names."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{','.join(text(v) for v in value)}]"
    return str(value)
