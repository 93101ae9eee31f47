"""Collects the site's pages: `python -m docs.site.pages FOLDER`.

Pages are the Markdown files of docs/ and the root. A line `<!-- name argument -->` becomes what the function
of that name in :data:`MADE` returns, so that tables of values are never written by hand. Pages of the root
come to lie beside those of docs/: links between the two are rewritten.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.site import reference

ROOT = Path(__file__).parents[2]
# Of the root; the README is the first page.
ROOT_PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    # Some file systems take SECURITY.md and docs/security.md for one file.
    "SECURITY.md": "reporting.md",
}
MADE: Mapping[str, Callable[..., str]] = {
    "defaults": reference.defaults,
    "protocols": reference.protocols,
    "protocol-fields": reference.protocol_fields,
    "fingerprint": lambda: reference.attributes(reference.Fingerprint, "").strip(),
}
WHOLE: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": reference.cli,
    "reference/record.md": reference.record,
    "reference/record.schema.json": reference.schema,
}
_MARK = re.compile(r"^<!-- ([a-z-]+)((?: [\w-]+)*) -->$", re.MULTILINE)


def made(text: str) -> str:
    """Returns a page's text with its marks replaced.

    Raises:
        KeyError: a mark has a name that nothing is made by.
    """
    return _MARK.sub(lambda match: MADE[match[1]](*match[2].split()), text)


def documents() -> list[Path]:
    """Returns the pages written by hand, README first."""
    return [*(ROOT / name for name in ROOT_PAGES), *sorted((ROOT / "docs").rglob("*.md"))]


def collect(folder: Path) -> None:
    """Writes all pages, pictures and files of examples of the site to a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.suffix in (".css", ".js"):
            _write(folder / path.name, path.read_bytes())
        elif path.suffix in (".png", ".svg") or path.parent.name == "cluster":
            _write(_place(folder, path), path.read_bytes())
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if path.parent == ROOT:
            text = text.replace("](docs/", "](").replace("](LICENSE)", "]")
            target = folder / ROOT_PAGES[path.name]
        else:
            target = _place(folder, path)
            text = text.replace("../README.md", "index.md")
        _write(target, made(text).encode())
    for name, make in WHOLE.items():
        _write(folder / name, make().encode())


def _place(folder: Path, path: Path) -> Path:
    return folder / path.relative_to(ROOT / "docs")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
