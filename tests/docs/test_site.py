"""The built site: every link leads somewhere, nothing is asked of others, axe finds nothing.

`nox -s docs` builds the site and runs these tests; where it is not built they skip, saying so.
"""

from __future__ import annotations

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import BaseModel

from docs.site.pages import MADE, ROOT, ROOT_PAGES, WHOLE, documents, made
from docs.site.reference import attribute_notes, settings
from harness.registry.methods import load_method, method_names
from harness.spec.fingerprints import Fingerprint
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec
from harness.spec.suite import Suite
from tests.reports.browser import opened

SITE = ROOT / "build/docs/site"
built = pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: nox -s docs")
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path.name != "404.html")


class Page(HTMLParser):
    """The addresses of a page: its own anchors, its links, and what it loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given and given.get("rel") != "canonical"):
            self.loads.append(given.get("src") or given["href"])


@built
def test_every_link_and_picture_leads_somewhere() -> None:
    read = {path: Page(path) for path in SITE.rglob("*.html") if path.name != "404.html"}
    assert len(read) > 30
    broken = []
    for path, page in read.items():
        for address in (*page.links, *page.loads):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = target in read and (not parts.fragment or unquote(parts.fragment) in read[target].ids)
            if not (known or (target not in read and target.is_file())):
                broken.append(f"{path.relative_to(SITE)}: {address}")
    assert not broken


@built
def test_nothing_is_loaded_from_others() -> None:
    for path in SITE.rglob("*.html"):
        assert not [address for address in Page(path).loads if urlsplit(address).netloc], path
    for path in SITE.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text), path


@built
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_and_a_phone_scrolls_one_way(scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # From disk no script may fetch stylesheets, which axe would for one rule, on orientation.
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "preload": False}
    wrong = {}
    # Whatever a page asks of a network, or a script's error, fails in ``opened``.
    with opened(SITE / PAGES[0], color_scheme=scheme, viewport={"width": width, "height": 900}) as tab:
        for page in PAGES:
            tab.goto((SITE / page).as_uri())
            found: Any = axe.run(tab, options=options).response["violations"]
            nodes = [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found]
            too_wide = tab.evaluate("document.documentElement.scrollWidth") > width
            if nodes or too_wide:
                wrong[page] = (too_wide, nodes)
    assert not wrong


@built
def test_the_search_finds_a_word_offline() -> None:
    with opened(SITE / "index.html") as tab:
        tab.keyboard.press("Control+k")
        tab.get_by_placeholder("Search").first.fill("saturation")
        tab.get_by_text("Saturated per-region overlap").first.wait_for()


@built
@pytest.mark.parametrize("method", method_names())
def test_equations_are_drawn(method: str) -> None:
    written = re.findall(r"```math\n(.*?)```", (ROOT / f"docs/methods/{method}.md").read_text(), re.DOTALL)
    equations = [part for block in written for part in block.strip().split("\n\n")]
    drawn = (SITE / f"methods/{method}.html").read_text(encoding="utf-8").count("<math ")
    assert drawn == len(equations) > 0


@pytest.mark.parametrize("model", [RunRecord, RunSpec, Identity, Fingerprint, Suite])
def test_every_field_has_a_meaning(model: type[BaseModel]) -> None:
    assert set(attribute_notes(model.__doc__ or "")) == set(model.model_fields)


@built
def test_the_schema_of_a_record_is_published_and_holds() -> None:
    schema = json.loads((SITE / "reference/record.schema.json").read_text())
    assert schema["title"] == "RunRecord"
    assert {"key", "spec", "metrics", "outcome"} <= set(schema["properties"])
    for path in sorted((ROOT / "tests/harness/museum").glob("*.json")):
        assert set(json.loads(path.read_text())) <= set(schema["properties"]), path


def _navigation(entries: list[Any]) -> list[str]:
    found = []
    for entry in entries:
        (value,) = entry.values()
        found += _navigation(value) if isinstance(value, list) else [value]
    return found


def test_every_page_has_its_place_in_the_navigation() -> None:
    placed = _navigation(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    written = [
        ROOT_PAGES[path.name] if path.parent == ROOT else path.relative_to(ROOT / "docs").as_posix()
        for path in documents()
    ]
    assert sorted(placed) == sorted([*written, *(name for name in WHOLE if name.endswith(".md"))])


def test_every_method_has_a_page_with_its_defaults() -> None:
    for name in method_names():
        text = (ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8")
        assert f"<!-- defaults {name} -->" in text
        shown = made(text)
        assert "<!--" not in shown
        config: type[BaseModel] = load_method(name).Config
        for parameter, field in config.model_fields.items():
            assert f"| `{parameter}` |" in shown
            # Each says whose value its default is.
            assert field.description


def test_a_changed_default_changes_the_page() -> None:
    class One(BaseModel):
        width: int = 3

    class Other(BaseModel):
        width: int = 4

    assert settings(One) != settings(Other)
    assert "| `width` | `4` |" in settings(Other)


def test_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing-made"):
        made("<!-- nothing-made -->\n")
    assert set(MADE) == {"defaults", "protocols", "protocol-fields", "fingerprint"}
