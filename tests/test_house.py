"""The house rules: which room may import which, no pickle, no long module, no heavy import at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for room in ("harness", "methods", "reports") for p in (ROOT / room).rglob("*.py"))
ALLOWED = {
    "harness": ("harness",),
    "methods": ("harness.method", "methods"),
    "reports": (
        *("harness.spec", "harness.store", "harness.maps", "harness.pictures", "harness.views"),
        *("harness.errors", "harness.files", "reports"),
    ),
}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    own = {name for name in imports(path) if name.split(".")[0] in ALLOWED}
    stray = {n for n in own if not any(n == a or n.startswith(f"{a}.") for a in ALLOWED[room])}
    assert not stray
    assert not imports(path) & {"pickle", "cPickle", "dill", "joblib"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_datasets_holds_no_python() -> None:
    assert not list((ROOT / "datasets").rglob("*.py"))


def test_torch_load_is_always_weights_only() -> None:
    for path in MODULES:
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
    "code", ["import harness", "from harness.cli.main import main; main(['--help'], standalone_mode=False)"]
)
def test_the_door_is_light(code: str) -> None:
    check = f"import sys; exec({code!r}); assert not {{'torch', 'pandas', 'cv2'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_help_is_fast() -> None:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "harness.cli", "--help"], check=True, capture_output=True)
        return time.perf_counter() - began

    assert min(once() for _ in range(5)) < 0.6
