"""The gallery: what is drawn is what was measured, and full pictures lie beside the page."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.samples import Sample
from harness.execution.keep import ShownImages, keep_view
from harness.metrics.exact import split_metrics
from harness.results.artefacts import view_path
from harness.results.store import record_path, write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import ImageFit
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec, run_key
from reports.page import gallery
from reports.page.curves import area, curve_svg, roc, until
from reports.page.gallery import write_pictures
from reports.page.thumbnails import outlined
from reports.write import write
from tests.harness.results.test_maps import scene
from tests.reports.test_hostile import NAMES


def kept(folder: Path, method: str, category: str = "c", dataset: str = "d", seed: int = 0) -> RunRecord:
    """A run on made-up images whose metrics were measured; its maps are kept."""
    maps, masks = scene(seed)
    scores = maps.max(axis=(1, 2))
    samples = []
    (folder / "images").mkdir(exist_ok=True, parents=True)
    for n, drawn in enumerate(masks):
        image, mask = (folder / "images" / f"{n:02}{end}.png" for end in ("", "-mask"))
        Image.fromarray(np.full((*drawn.shape, 3), 100, np.uint8)).save(image)
        Image.fromarray(drawn * 255).save(mask)
        kind = "structural" if drawn.any() else "normal"
        samples.append(Sample(image, (mask,) if drawn.any() else (), kind, ""))
    spec = RunSpec(dataset=dataset, category=category, method=method, seed=seed, image_size=maps.shape[1])
    identity = Identity(method_version=1, config={}, weights={}, data="d", score_rule="max")
    record = RunRecord(
        key=run_key(spec, identity),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="ok",
        metrics=split_metrics(scores, maps, [s.kind for s in samples], masks),
        categories=[category],
    )
    path = write_record(folder / "results", record)
    keep_view(
        path,
        maps,
        scores,
        ShownImages(samples, "d", ImageFit(maps.shape[1], "antialiased"), folder / "cache"),
    )
    return record


def test_areas_on_the_page_are_the_records_metrics(tmp_path: Path) -> None:
    records = [kept(tmp_path, "one"), kept(tmp_path, "two", seed=1)]
    write(tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for record in records:
        (text,) = re.findall(rf"<figcaption><b>{record.spec.method}</b>: (.*?)</figcaption>", page)
        shown = {name: float(value) for name, value in re.findall(r"(\w+ ?\w*) ([\d.]+)", text)}
        names = {"image AUROC": "image_auroc", "pixel AUROC": "pixel_auroc", "AUPRO": "aupro"}
        assert shown.keys() == names.keys()
        for name, metric in names.items():
            measured = record.metrics["all"][metric]
            assert measured is not None
            # Half a digit for printing, half of one for the curve.
            assert shown[name] == pytest.approx(100 * measured, abs=0.1)


def test_curves_by_hand() -> None:
    found = roc([1, 2, 2, 3], [2, 4])
    assert found.tolist() == [[0, 0, 0.25, 0.75, 1], [0, 0.5, 0.5, 1, 1]]
    assert area(found) == pytest.approx(0.25 * 0.5 + 0.5 * 0.75 + 0.25)
    assert until(found, 0.5).tolist() == [[0, 0, 0.25, 0.5], [0, 0.5, 0.5, 0.75]]
    assert area(until(found, 0.5)) == pytest.approx((0.25 * 0.5 + 0.25 * 0.625) / 0.5)
    text = curve_svg(until(found, 0.5), "y", "<title>")
    assert "&lt;title&gt;" in text
    # However many points there are, few are drawn.
    steps = np.linspace(0, 1, 100_000)
    assert len(curve_svg(np.stack([steps, steps**0.1]), "y", "t")) < 4_000


def test_an_outline_lies_around_the_mask() -> None:
    image, mask = Image.new("RGB", (40, 40), (90, 90, 90)), np.zeros((40, 40), bool)
    mask[:8, 10:20] = True
    files = []
    for picture in (image, Image.fromarray(mask)):
        files.append(io.BytesIO())
        picture.save(files[-1], "PNG")
    drawn = np.asarray(Image.open(io.BytesIO(outlined(files[0].getvalue(), files[1].getvalue())))).astype(int)
    yellow = (drawn[..., 0] - drawn[..., 2]) > 100
    assert yellow[8, 10:20].all()
    assert yellow[2:8, 9].all()
    assert not yellow[2:6, 12:18].any()
    assert not yellow[12:].any()
    assert abs(drawn[24:] - 90).max() < 12


def links(page: Path) -> set[str]:
    return set(re.findall(r'href="(pictures/[^"]*)"', page.read_text()))


def test_full_pictures_lie_beside_the_page_and_stale_ones_go(tmp_path: Path) -> None:
    record = kept(tmp_path, "one")
    kept(tmp_path, NAMES[0], "../x" + NAMES[3], "-" + NAMES[2])
    results, out = tmp_path / "results", tmp_path / "out"
    write(results, out)
    before = links(out / "index.html")
    folder = out / "pictures"
    assert before == {f"pictures/{path.name}" for path in folder.iterdir()}
    # At most three images of each of three choices, each with its outline and its map; of two categories.
    assert 20 < len(before) <= 2 * 3 * 3 * 3
    for name in before:
        assert re.fullmatch(r"pictures/[A-Za-z0-9_=+][A-Za-z0-9._=+-]{1,150}\.jpg", name)
        with Image.open(out / name) as picture:
            assert picture.size == (192, 192)

    own, changed = folder / "mine-0123456789abcdef.jpg", next(folder.glob("c-*.jpg"))
    own.write_bytes(b"somebody's")
    changed.write_bytes(b"somebody's too")
    view_path(record_path(results, record.spec, record.key)).unlink()
    write(results, out)
    after = links(out / "index.html")
    assert set() < after < before
    assert {path.name for path in folder.iterdir()} == {
        *(name.removeprefix("pictures/") for name in after),
        own.name,
        changed.name,
    }
    own.unlink()
    changed.unlink()
    write_pictures(folder, {})
    assert not folder.exists()


def test_a_page_has_room_for_so_many_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for category in ("a", "b"):
        record = kept(tmp_path, "one", category)
        changed = record.model_copy(update={"categories": ["a", "b"]})
        write_record(tmp_path / "results", changed)
    monkeypatch.setattr(gallery, "_BUDGET", 1)
    write(tmp_path / "results", tmp_path / "out")
    assert "Left out to keep the page small: b." in (tmp_path / "out" / "index.html").read_text()
    assert not list((tmp_path / "out" / "pictures").glob("b-*"))
