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
from html import escape
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


def picture(root: Path) -> str:
    """Returns the rooms on their floors as SVG, each with its docstring's first line and its imports."""
    found = rooms(arrows(modules(root)))
    width, height, gap = 400, 62, 12
    lines = []
    for number, names in enumerate(reversed(FLOORS)):
        y = 10 + number * (height + gap)
        left = (3 * (width + gap) - len(names) * (width + gap)) / 2 + 10
        for at, name in enumerate(names):
            x = left + at * (width + gap)
            source = (root / "harness" / name / "__init__.py").read_text(encoding="utf-8")
            doc = ast.get_docstring(ast.parse(source)) or ""
            below = [other for floor in FLOORS for other in floor if other in found.get(name, ())]
            said = [
                doc.splitlines()[0],
                f"imports {', '.join(below)}" if below else "imports nothing of ours",
            ]
            lines.append(f'<rect x="{x:g}" y="{y}" width="{width}" height="{height}" rx="6"/>')
            lines.append(f'<text class="name" x="{x + 10:g}" y="{y + 19}">{name}</text>')
            for k, text in enumerate(said):
                shown = escape(text if len(text) <= 76 else f"{text[:75]}…")
                lines.append(f'<text x="{x + 10:g}" y="{y + 36 + 15 * k}">{shown}</text>')
    size = f"0 0 {3 * (width + gap) + 8} {len(FLOORS) * (height + gap) + 10}"
    style = (
        "rect{fill:#fff;stroke:#456}text{font:10.5px sans-serif;fill:#234}"
        ".name{font-weight:bold;font-size:14px}"
    )
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}">\n<style>{style}</style>\n{body}\n</svg>\n'
    )


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
    if sys.argv[1:2] == ["--picture"]:
        Path(sys.argv[2]).write_text(picture(ROOT), encoding="utf-8")
        sys.exit()
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
