"""The structure of the house: ``python -m tests.house [FOLDER]`` prints imports, floors and circles.

An arrow is an import of one of our modules by another, local and TYPE_CHECKING ones too. A room is a package
of ``harness``; a module directly in it is a room of its own, so that a checkout from before there were rooms
can be counted as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "methods", "reports")
# From the ground up; rooms of one floor do not know each other.
FLOORS = (
    ("common",),
    ("spec",),
    ("data", "results"),
    ("metrics", "profiling", "registry"),
    ("planning",),
    ("execution",),
    ("deployment", "checks"),
    ("cli",),
)

Arrows = Mapping[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Returns our modules by their dotted names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Returns for each module those of ours that it imports, wherever the import stands."""
    return {name: set(_imports(name, path, known)) for name, path in known.items()}


def _imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = inner if inner in known else node.module
                if target in known and target != name:
                    yield target


def room(module: str) -> str:
    """Returns the room of a module of ``harness``: ``data`` of ``harness.data.card``; else its package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "harness" and len(parts) > 1 else parts[0]


def rooms(found: Arrows) -> dict[str, set[str]]:
    """Returns the arrows between rooms of ``harness``."""
    between: dict[str, set[str]] = {}
    for module, targets in found.items():
        if module.startswith("harness."):
            own = between.setdefault(room(module), set())
            own |= {room(t) for t in targets if t.startswith("harness.")} - {room(module)}
    return between


def circles(found: Arrows) -> list[list[str]]:
    """Returns circles, one at a time with its arrows taken away, until there is none."""
    left = {name: set(targets) for name, targets in found.items()}
    circles = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            # It names the circle against the arrows' direction.
            circle: list[str] = error.args[1]
            circles.append(circle)
            for target, name in pairwise(circle):
                left[name].discard(target)
        else:
            return circles


def floors(between: Arrows) -> int:
    """Returns how many floors rooms need, each above all that it imports; those of a circle share one."""
    left = {name: set(targets) for name, targets in between.items()}
    for circle in circles(between):
        for target, name in pairwise(circle):
            left[name].discard(target)
    height: dict[str, int] = {}
    for name in TopologicalSorter(left).static_order():
        height[name] = 1 + max((height[target] for target in left.get(name, ())), default=0)
    return max(height.values(), default=0)


def upward(found: Arrows) -> list[str]:
    """Returns imports that do not go down: ``harness.data.card → harness.planning.plan``."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    return [
        f"{module} → {target}"
        for module, targets in found.items()
        for target in sorted(targets)
        if (a := floor.get(room(module))) is not None
        and (b := floor.get(room(target))) is not None
        and room(module) != room(target)
        and b >= a
    ]


def main(root: Path) -> None:
    """Prints the counts."""
    known = modules(root)
    found = arrows(known)
    own = {n: {t for t in targets if t.startswith("harness.")} for n, targets in found.items()}
    own = {name: targets for name, targets in own.items() if name.startswith("harness.")}
    between = rooms(found)
    there = circles(own)
    lines = [
        f"modules: {len(known)}, of harness {len(own)}",
        f"rooms of harness: {len(between)}, on {floors(between)} floors",
        f"arrows between modules of harness: {sum(map(len, own.values()))}",
        f"arrows between its rooms: {sum(map(len, between.values()))}",
        f"imports upwards: {len(upward(found))}",
        *(f"  {arrow}" for arrow in upward(found)),
        f"circles of modules: {len(there)}",
        *(f"  {' → '.join(reversed(circle))}" for circle in there),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
