"""A method's name → the method: entry points, hyper-parameters, weights, assets.

In: ``ulsad[lambda_l=0]``. Out: a class, its configuration, the weights and assets that it needs, and what it
is given when it is constructed. Only ``prepare`` downloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.lazy import lazy

if TYPE_CHECKING:
    from harness.registry.configuration import configure_methods
    from harness.registry.methods import configure, load_method, method_names
    from harness.registry.names import MethodName, parse_name
    from harness.registry.weights import find_weights

__all__ = [
    "MethodName",
    "configure",
    "configure_methods",
    "find_weights",
    "load_method",
    "method_names",
    "parse_name",
]

__getattr__ = lazy(
    __name__,
    {
        "MethodName": "names",
        "configure": "methods",
        "configure_methods": "configuration",
        "find_weights": "weights",
        "load_method": "methods",
        "method_names": "methods",
        "parse_name": "names",
    },
)
