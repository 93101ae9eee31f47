"""The house rules: which room may import which, no pickle, no long module, no heavy import at the door."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.house import FLOORS, ROOT, arrows, circles, modules, room, rooms, upward

FILES = modules(ROOT)
FOUND = arrows(FILES)
# Whom methods and reports may import, beside themselves.
ALLOWED = {"methods": {"harness.method"}, "reports": {"common", "spec", "results"}}


def test_imports_only_go_down() -> None:
    assert not upward(FOUND)


def test_every_room_has_its_floor() -> None:
    known = {name for names in FLOORS for name in names} | {"method"}
    assert {name for name in rooms(FOUND) if name != "harness"} <= known


def test_there_is_no_circle() -> None:
    assert not circles(FOUND)


def test_the_interface_imports_nothing_of_ours() -> None:
    assert not FOUND["harness.method"]


def test_methods_import_the_interface_alone() -> None:
    own = {n: targets for n, targets in FOUND.items() if n.split(".")[0] == "methods"}
    for name, targets in own.items():
        stray = {t for t in targets if t.split(".")[0] != "methods"} - ALLOWED["methods"]
        assert not stray, name


def test_reports_import_values_and_results_alone() -> None:
    for name, targets in FOUND.items():
        if name.split(".")[0] == "reports":
            stray = {t for t in targets if t.startswith("harness") and room(t) not in ALLOWED["reports"]}
            assert not stray | {t for t in targets if t.startswith("methods")}, name


def test_the_harness_knows_neither_methods_nor_reports() -> None:
    for name, targets in FOUND.items():
        if name.split(".")[0] == "harness":
            assert not {t for t in targets if not t.startswith("harness")}, name


@pytest.mark.parametrize("path", FILES.values(), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_and_have_no_pickle(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    assert not names & {"pickle", "cPickle", "dill", "joblib"}
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("name", sorted({name for names in FLOORS for name in names} - {"cli"}))
def test_what_a_room_hands_on_is_there(name: str) -> None:
    package = importlib.import_module(f"harness.{name}")
    assert package.__doc__
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match=f"'harness.{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_no_two_modules_export_one_name_for_two_things() -> None:
    """Commands are functions named like what they call, and a method's own files are its own."""
    homes: dict[str, set[str]] = defaultdict(set)
    for name, path in FILES.items():
        if name.startswith("methods") or ".cli" in name:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                homes[node.name].add(name)
    assert not {name: found for name, found in homes.items() if len(found) > 1 and name != "main"}


def test_datasets_holds_no_python() -> None:
    assert not list((ROOT / "datasets").rglob("*.py"))


def test_torch_load_is_always_weights_only() -> None:
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_nothing_installed_is_importable_as_datasets(tmp_path: Path) -> None:
    code = "import importlib.util; s = importlib.util.find_spec('datasets'); print(s.origin if s else None)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(ROOT) not in found.stdout


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import harness", {"torch", "pandas", "cv2"}),
        (
            "from harness.cli.main import main; main(['--help'], standalone_mode=False)",
            {"torch", "pandas", "cv2"},
        ),
        ("import reports.write", {"torch", "cv2", "matplotlib"}),
    ],
)
def test_the_door_is_light(code: str, heavy: set[str]) -> None:
    check = f"import sys; exec({code!r}); assert not {heavy!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_help_is_fast() -> None:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "harness.cli", "--help"], check=True, capture_output=True)
        return time.perf_counter() - began

    assert min(once() for _ in range(5)) < 0.6
