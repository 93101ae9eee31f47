"""Untrusted input, made by Hypothesis: no traceback, no hang, nothing written outside the given folders.

Some examples by default; FUZZ=10000 asks for more, and `nox -s fuzz` does so. What failed once is kept in
.hypothesis and tried first the next time.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.checks.records import verify
from harness.cli.main import main
from harness.common.errors import UserError
from harness.data.card import Card, load_card
from harness.data.decoding import image_size, read_mask, read_rgb
from harness.data.samples import category_names, read_category, scan_category
from harness.planning.suites import load_suite
from harness.registry.names import parse_name, split_names
from harness.results.merge import merge
from harness.results.store import Damaged, parse_record, read_record, read_records, record_path, write_record
from harness.spec.names import slug
from harness.spec.record import RunRecord
from tests.harness.places import CARD as LAYOUT
from tests.harness.places import MASKS

MUSEUM = sorted((Path(__file__).parents[1] / "museum").glob("*.json"))
EXAMPLES = int(os.environ.get("FUZZ", "50"))
FUZZ = settings(
    max_examples=EXAMPLES,
    # The few of every test run are the same ones each time; `nox -s fuzz` looks for new ones.
    derandomize="FUZZ" not in os.environ,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

nasty = st.sampled_from(
    [
        "..",
        "../x",
        "/etc/passwd",
        "\0",
        "\x1b[31m",
        "a/b",
        "C:\\x",
        "",
        ".",
        "~",
        "-rf",
        "%s",
        "{}",
        "\ud800",
        "x" * 300,
    ]
)
words = st.one_of(nasty, st.text(max_size=20))
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, -1, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf")]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


@contextmanager
def sandbox() -> Iterator[Path]:
    """Gives a folder inside another; nothing may appear in the outer one."""
    with tempfile.TemporaryDirectory() as outer:
        inner = Path(outer) / "inner"
        inner.mkdir()
        (Path(outer) / "secret.png").write_bytes(b"secret")
        yield inner
        assert sorted(p.name for p in Path(outer).iterdir()) == ["inner", "secret.png"]
        assert (Path(outer) / "secret.png").read_bytes() == b"secret"


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from places(item, (*way, key))


@st.composite
def changed(draw: st.DrawFn, texts: list[str]) -> Any:
    """One of several JSON texts with some of its values changed, taken away or added."""
    value = json.loads(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 4))):
        ways = list(places(value))
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        inner = value
        for key in way:
            inner = inner[key]
        match draw(st.sampled_from(["change", "remove", "add"])):
            case "change":
                inner[last] = draw(values)
            case "remove":
                del inner[last]
            case "add" if isinstance(inner, dict):
                inner[draw(words)] = draw(values)
    return value


def torn(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with some bytes changed, and perhaps its end cut off."""
    mutable = bytearray(content)
    for _ in range(draw(st.integers(0, 8))):
        if mutable:
            mutable[draw(st.integers(0, len(mutable) - 1))] = draw(st.integers(0, 255))
    return bytes(mutable[: draw(st.integers(0, len(mutable)))] if draw(st.booleans()) else mutable)


# Records


RECORDS = [path.read_text() for path in MUSEUM]


@st.composite
def record_files(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return torn(draw, draw(st.sampled_from(RECORDS)).encode())
    return json.dumps(draw(changed(RECORDS))).encode("utf-8", "surrogatepass")


@FUZZ
@given(record_files())
def test_records(content: bytes) -> None:
    with sandbox() as folder:
        path = folder / "results" / "d" / "c" / "m" / f"{'0' * 16}.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        record = read_record(path)
        assert isinstance(record, RunRecord | Damaged)
        assert all(verdict.path == path for verdict in verify(folder / "results"))
        read_records(folder / "results")
        if isinstance(record, RunRecord):
            again = write_record(folder / "again", record)
            assert again.is_relative_to(folder / "again")
            assert isinstance(read_record(again), RunRecord)
            done = CliRunner().invoke(main, ["verify", "--results", str(folder / "again")])
            assert done.exit_code in (0, 1)
            assert "\x1b" not in done.output


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), record_files()), max_size=4), st.integers(0, 2)
)
def test_merges(given_files: list[tuple[int, int, bytes]], target: int) -> None:
    with sandbox() as folder:
        folders = [folder / name for name in ("a", "b", "c")]
        for one in folders:
            one.mkdir()
        for number, text in enumerate(RECORDS):
            record = parse_record(text.encode())
            assert isinstance(record, RunRecord)
            write_record(folders[number % 3], record)
        before = {p: p.read_bytes() for p in folder.rglob("*.json")}
        for into, number, content in given_files:
            record = parse_record(RECORDS[number].encode())
            assert isinstance(record, RunRecord)
            own = parse_record(content)
            spec, key = (own.spec, own.key) if isinstance(own, RunRecord) else (record.spec, record.key)
            path = record_path(folders[into], spec, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        kept = {p: p.read_bytes() for p in folder.rglob("*.json")}
        merged = merge(folders[:2], folders[target])
        after = {p: p.read_bytes() for p in folder.rglob("*.json")}
        outside = {p for p in after if not p.is_relative_to(folders[target])}
        assert all(after[p] == kept[p] for p in outside), "sources stay as they are"
        if merged.conflicts:
            assert after == kept
        assert not list(folder.rglob("*.tmp"))
        assert before


# Cards and suites


CARD = LAYOUT + MASKS
SUITE = 'title = "S"\nmethods = ["ulsad"]\ndatasets = ["demo"]\nseeds = [0]\n[set.ulsad]\nepochs = 1\n'
TABLES = [
    json.dumps(
        {
            "schema": 1,
            "title": "Own",
            "licence": "CC0",
            "homepage": "https://example.org",
            "folders": ["own"],
            "layout": {
                "train": ["{category}/train/*"],
                "test": ["{category}/test/*/*"],
                "masks": ["{category}/{defect}/{stem}.png"],
                "kinds": {"bent": "structural"},
                "defects": "{category}/defects.json",
            },
            "categories": [{"name": "a", "train": 3, "test": {"normal": 1}}],
        }
    ),
    json.dumps(
        {
            "title": "S",
            "methods": ["ulsad"],
            "datasets": ["demo"],
            "seeds": [0],
            "set": {"ulsad": {"epochs": 1}},
        }
    ),
]


def toml(value: Any) -> str:
    """A JSON value as TOML, inline below the first level; what TOML has not is left to be wrong."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value).lower() if isinstance(value, float) else json.dumps(value)


@st.composite
def toml_files(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return torn(draw, draw(st.sampled_from([CARD, SUITE])).encode())
    table = draw(changed(TABLES))
    text = "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in table.items())
    return text.encode("utf-8", "surrogatepass")


def walk(card: Card, root: Path) -> None:
    for name in category_names(card, root)[:3]:
        data = scan_category(card, name, root)
        for part in (data.train, data.validation, data.test):
            for sample in part:
                for path in (sample.image, *sample.masks):
                    assert path.is_relative_to(root), "no file outside the dataset's folder is listed"
        read_category(card, name, root.parent)


@FUZZ
@given(toml_files(), st.lists(words, max_size=4))
def test_cards_and_suites(content: bytes, names: list[str]) -> None:
    with sandbox() as folder:
        root = folder / "data" / "own"
        for name in ("a/train/good", "a/test/bent", "a/test/good"):
            (root / name).mkdir(parents=True)
            (root / name / "0.png").write_bytes(b"")
        path = folder / "own.toml"
        path.write_bytes(content)
        for use in (lambda: walk(load_card(path), root), lambda: load_suite(str(path))):
            try:
                use()
            except UserError as error:
                assert str(error)
        for name in names:
            assert Path(slug(name)).name == slug(name)
            assert slug(name) not in ("", ".", "..")


# Images


def picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    image = (
        Image.fromarray(pixels).convert(mode)
        if mode != "I;16"
        else Image.fromarray(pixels[..., 0].astype(np.uint16))
    )
    image.save(buffer, kind)
    return buffer.getvalue()


PICTURES = [
    *(picture("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "1", "I;16")),
    *(picture("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(picture("TIFF", mode) for mode in ("RGB", "CMYK", "F", "I;16")),
    *(picture("BMP", mode) for mode in ("RGB", "P", "1")),
    picture("GIF", "P"),
    picture("PPM", "RGB"),
]


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    return torn(draw, draw(st.one_of(st.sampled_from(PICTURES), st.binary(max_size=200))))


@FUZZ
@given(image_files())
@pytest.mark.filterwarnings("ignore")
def test_image_files(content: bytes) -> None:
    with sandbox() as folder:
        path = folder / "image.png"
        path.write_bytes(content)
        try:
            pixels = read_rgb(path)
            assert pixels.dtype == np.uint8
            assert pixels.shape == (*image_size(path), 3)
        except UserError as error:
            assert "image.png" in str(error)
        try:
            assert set(np.unique(read_mask(path))) <= {0, 1}
        except UserError as error:
            assert "image.png" in str(error)


# Names and command lines


@FUZZ
@given(st.one_of(words, st.text("ulsad[]=,:.py/ ", max_size=40)))
def test_names(text: str) -> None:
    for name in split_names(text):
        try:
            parsed = parse_name(name)
        except UserError:
            continue
        assert parsed.base
        assert parsed.short()


COMMANDS = [
    ["plan"],
    ["report"],
    ["verify"],
    ["merge"],
    ["results", "prune"],
    ["results", "export"],
    ["results", "import"],
    ["rescore"],
    ["data", "check"],
    ["cache", "list"],
    ["list", "datasets"],
    ["list", "methods"],
    ["baseline"],
    ["check"],
    ["history"],
    [],
]
FLAGS = [
    *("--suite", "--methods", "--datasets", "--categories", "--seeds", "--protocol", "--set", "--backbone"),
    *("--image-size", "--evaluate", "--device", "--data-root", "--results", "--overwrite", "--keep", "-o"),
    *("--what", "--format", "--baseline", "--cards", "--published", "--dry-run", "--audit", "--help"),
]
arguments = st.one_of(
    st.sampled_from(FLAGS),
    words,
    st.sampled_from(
        ["demo", "ulsad", "dfr[epochs=1]", "mvtec", "0-2", "inner", "results", "cpu", "0-999999999999", "1-0"]
    ),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, made once."""
    folder = tmp_path_factory.mktemp("cache")
    done = CliRunner(env={"BENCH_CACHE": str(folder)}).invoke(
        main, ["plan", "--results", str(folder / "none")]
    )
    assert done.exit_code == 0, done.output
    return folder


@FUZZ
@given(command=st.sampled_from(COMMANDS), words=st.lists(arguments, max_size=6))
@pytest.mark.filterwarnings("ignore")
def test_command_lines(cache: Path, command: list[str], words: list[str]) -> None:
    # Names that lead out on purpose would be the caller's own wish to write there.
    words = [word for word in words if not word.startswith(("..", "/", "~", "C:"))]
    # As Python gives bytes that are no text; other surrogates, and null, cannot come from a command line.
    words = [re.sub("[\ud800-\udfff]", "\udcff", word.replace("\0", "")) for word in words]
    with sandbox() as folder:
        here = Path.cwd()
        os.chdir(folder)
        try:
            done = CliRunner(env={"BENCH_CACHE": str(cache)}).invoke(main, [*command, *words])
        finally:
            os.chdir(here)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert done.exit_code in (0, 1, 2)
        assert "Traceback" not in done.output
