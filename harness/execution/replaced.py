"""Functions and classes of libraries, as they are before a run, and put back after it.

A method may replace a function of PyTorch, of NumPy or of the harness for all that follows in its process
(``torch.relu = ...``). What every module, and every class in it, calls by a name is remembered: which object
that is, not what it has inside. A library's own caches and counters are none of it.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from types import FunctionType, GetSetDescriptorType, ModuleType
from typing import Any, NamedTuple

from torch.nn.modules import module as torch_module

# What is called, inherited from, or looked things up in; whatever else can be called too.
_CALLED = (*(GetSetDescriptorType, ModuleType), *(property, staticmethod, classmethod))
# Of these modules a number is a constant too.
_CONSTANTS = frozenset({"math", "numpy", "torch"})
# What `harness.registry.methods` calls the module of a private method's file.
_PRIVATE = "bench_private_"
_METHODS = "methods"
_Owner = ModuleType | type


class ReplacedNames(NamedTuple):
    """What came of putting back.

    Attributes:
        put_back: names that mean again what they meant.
        left: names that cannot.
        imported: whether libraries have come in.
    """

    put_back: list[str]
    left: list[str]
    imported: bool


class Replaced:
    """What names in modules and classes mean, from construction on; libraries imported later come in."""

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}
        self._path = list(sys.path)
        folders = [*self._path, *sysconfig.get_paths().values(), str(Path(__file__).parents[2])]
        self._roots = tuple({str(Path(folder).absolute()) for folder in folders if ".zip" not in folder})
        self._known: dict[int, tuple[_Owner, dict[str, Any]]] = {}
        self._insides: dict[int, tuple[FunctionType, tuple[Any, ...]]] = {}
        self._hooks = {name: dict(hooks) for name, hooks in _hooks()}
        for name, module in list(sys.modules.items()):
            self._learn(name, module)

    def restore(self) -> ReplacedNames:
        """Puts back what was replaced."""
        put_back, left = list[str](), list[str]()

        def change(called: str, back: Callable[[], object]) -> None:
            try:
                back()
                put_back.append(called)
            except (AttributeError, TypeError, ValueError):
                left.append(called)

        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                change(f"module {name}", lambda name=name, module=module: sys.modules.update({name: module}))  # type: ignore[misc]
        for owner, names in self._known.values():
            for name, back in _differences(owner, names):
                change(f"{owner.__name__}.{name}", back)
        for function, inside in self._insides.values():
            if _inside(function) != inside:
                change(f"the inside of {function.__qualname__}", lambda f=function, i=inside: _fill(f, i))  # type: ignore[misc]
        for name, hooks in _hooks():
            if dict(hooks) != self._hooks[name]:
                change(name, lambda h=hooks, was=self._hooks[name]: (h.clear(), h.update(was)))  # type: ignore[misc]
        known = len(self._modules)
        left += self._new_modules()
        return ReplacedNames(put_back, left, len(self._modules) > known)

    def _new_modules(self) -> Iterator[str]:
        """Takes in libraries that were imported since; yields what the method has replaced in them.

        A module that another method could mistake for its own is forgotten.
        """
        for name, module in list(sys.modules.items()):
            if name in self._modules:
                continue
            if self._strange(name, module):
                del sys.modules[name]
                continue
            yield from self._learn(name, module)

    def _strange(self, name: str, module: Any) -> bool:
        """Whether a module is a method's own file, lies beside one, or stands where a library would."""
        if name.startswith(_PRIVATE):
            return True
        inside = vars(module) if _is(module, ModuleType) else {}
        root, spec = name.partition(".")[0], inside.get("__spec__")
        if spec is not None and root == name and spec.name != name:
            return True
        places = [place for place in (inside.get("__file__"), *inside.get("__path__", ())) if place]
        if places:
            return not str(Path(places[0]).absolute()).startswith(self._roots)
        if root in self._modules or spec is not None:
            return False
        return importlib.machinery.PathFinder.find_spec(root, self._path) is not None

    def _learn(self, name: str, module: Any) -> list[str]:
        """Remembers a module and its classes; returns what a method has put into it."""
        self._modules[name] = module
        if not _is(module, ModuleType):
            return []
        owners: list[_Owner] = [module]
        owners += [v for v in list(vars(module).values()) if _is(v, type) and _home(v) == name]
        found = []
        for owner in owners:
            if id(owner) in self._known:
                continue
            names = dict(vars(owner))
            self._known[id(owner)] = owner, names
            for called, value in names.items():
                if _is(value, FunctionType):
                    self._insides[id(value)] = value, _inside(value)
                if _belongs_to_a_method(value) and not _belongs_to_a_method(owner):
                    found.append(f"{owner.__name__}.{called}")
        return [] if name.partition(".")[0] == _METHODS else found


def _differences(owner: _Owner, names: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields the names that mean another thing than they did, and what puts each back."""
    now = vars(owner)
    kinds = (*_CALLED, int, float) if owner.__name__ in _CONSTANTS else _CALLED
    for name, value in names.items():
        if now.get(name, names) is not value and (callable(value) or _is(value, *kinds)):
            yield name, lambda name=name, value=value: setattr(owner, name, value)  # type: ignore[misc]
    if len(now) <= len(names):
        return
    # What is new hides nothing, unless a class has inherited it or a module has it from Python.
    for name in [name for name in now if name not in names]:
        if not (callable(now[name]) or _is(now[name], *_CALLED)):
            continue
        above = owner.__mro__[1:] if isinstance(owner, type) else (builtins,)
        if any(name in vars(one) for one in above):
            yield name, lambda name=name: delattr(owner, name)  # type: ignore[misc]


def _inside(function: FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _fill(function: FunctionType, inside: tuple[Any, ...]) -> None:
    function.__code__, function.__defaults__, function.__kwdefaults__ = inside


def _is(value: object, *kinds: type) -> bool:
    """As ``isinstance``, which asks objects that answer with warnings."""
    return issubclass(type(value), kinds)


def _home(value: Any) -> object:
    """The module that a class or function was made in; asking a class for it may run code of its own."""
    return vars(value).get("__module__") if _is(value, type) else value.__module__


def _belongs_to_a_method(value: Any) -> bool:
    if _is(value, ModuleType):
        home: object = value.__name__
    elif _is(value, type, FunctionType):
        home = _home(value)
    else:
        return False
    return isinstance(home, str) and (home.startswith(_PRIVATE) or home.partition(".")[0] == _METHODS)


def _hooks() -> Iterator[tuple[str, MutableMapping[Any, Any]]]:
    """Yields what PyTorch calls around every module's forward and backward."""
    for name, value in vars(torch_module).items():
        if name.startswith("_global_") and isinstance(value, MutableMapping):
            yield f"PyTorch's {name.strip('_').replace('_', ' ')}", value
