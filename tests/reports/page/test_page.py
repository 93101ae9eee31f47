"""The page in a real browser: sorting, filtering, links to a view, cells, gallery, phone, dark, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from harness.data.samples import Sample
from harness.execution.keep import ShownImages, keep_view
from harness.metrics.thresholds import operating_points
from harness.results.category_pictures import load_pictures
from harness.results.store import record_path, write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import ImageFit
from harness.spec.record import EpochLog, Failure, RunRecord, Timings
from harness.spec.run import Identity, RunSpec
from reports.page.charts import Point, pareto, scatter_svg
from reports.page.gallery import gallery_choices
from reports.page.payload import command
from reports.write import write
from tests.reports.browser import opened

METHODS = ("alpha", "beta[depth=3]", "gamma")
CATEGORIES = ("bolt", "nut", "washer")
POINTS = operating_points(
    np.arange(20, dtype=np.float32),
    np.zeros((20, 2, 2), np.float32),
    np.array([3, 19.5, 18.5, 30], np.float32),
    ["normal", "normal", "structural", "structural"],
    ["structural"],
)


def run(method: str, category: str, seed: int, protocol: str = "strict", **change: Any) -> RunRecord:
    """A made-up run whose image AUROC follows from its place in the lists above."""
    spec = RunSpec(
        dataset="made_up",
        category=category,
        method=method,
        params={"depth": 3} if "[" in method else {"lr": 0.01},
        seed=seed,
        protocol=protocol,
        image_size=64,
    )
    identity = Identity(
        method_version=1,
        config={},
        weights={"b": "1" * 64},
        data=f"d-{category}",
        score_rule="max of the map",
    )
    value = 0.9 - 0.1 * METHODS.index(method) + 0.02 * CATEGORIES.index(category) + 0.001 * seed
    failed = change.get("failed", False)
    scores: dict[str, float | None] = {"image_auroc": value, "pixel_auroc": value - 0.1, "aupro": value - 0.2}
    return RunRecord(
        key=f"{METHODS.index(method)}{CATEGORIES.index(category)}{seed}".ljust(
            16, "a" if protocol == "strict" else "b"
        ),
        spec=spec,
        identity=identity,
        fingerprint=fingerprint(spec, identity, 1),
        outcome="failed" if failed else "ok",
        failure=Failure(message="it <broke>", traceback="Traceback: line 7 <b>") if failed else None,
        metrics={} if failed else {"all": scores, "structural": scores},
        metrics_last={"all": {"image_auroc": value - 0.05}} if protocol == "paper" and not failed else None,
        epochs=[EpochLog(number=n, losses={"L_pl": 1 / n}, test_image_auroc=value) for n in range(1, 9)],
        selected_epoch=3,
        categories=list(CATEGORIES),
        split_categories={"structural": list(CATEGORIES)},
        timings=Timings(
            load=0, fit=2, predict=1, evaluate=0, images_per_second=10 + 20 * METHODS.index(method)
        ),
        peak_memory={"host": 10**9},
        environment={"cpu": "made-up processor", "packages": {"torch": "0"}},
        finished="2026-01-01T00:00:00",
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three methods, three categories, two seeds, two protocols, one failed run, one gallery."""
    folder = tmp_path_factory.mktemp("page")
    results = folder / "results"
    for protocol in ("strict", "paper"):
        for method in METHODS:
            for category in CATEGORIES:
                for seed in (0, 1):
                    failed = (method, category, seed, protocol) == ("gamma", "nut", 1, "strict")
                    made = run(method, category, seed, protocol, failed=failed)
                    points = POINTS if method == "alpha" else None
                    write_record(results, made.model_copy(update={"operating": points}))
    _keep(folder, results)
    write(results, folder / "report")
    return folder / "report" / "index.html"


def _keep(folder: Path, results: Path) -> None:
    """Maps of every method on one category: 12 test images, the last 8 anomalous."""
    noise = np.random.default_rng(0)
    samples = []
    for n in range(12):
        image, mask = folder / f"{n:02}.png", folder / f"{n:02}-mask.png"
        Image.fromarray(noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(image)
        drawn = np.zeros((64, 64), np.uint8)
        if n >= 4:
            drawn[8:24, 8:24] = 255
            Image.fromarray(drawn).save(mask)
        kind = "normal" if n < 4 else "structural"
        samples.append(Sample(image, (mask,) if n >= 4 else (), kind, "" if n < 4 else "scratch"))
    for method in METHODS:
        record = run(method, "bolt", 0)
        path = record_path(results, record.spec, record.key)
        maps = noise.random((12, 64, 64), dtype=np.float32)
        maps[4:, 8:24, 8:24] += METHODS.index(method)
        scores = maps.max(axis=(1, 2))
        keep_view(
            path,
            maps,
            scores,
            ShownImages(samples, "d-bolt", ImageFit(maps.shape[1], "antialiased"), folder / "cache"),
        )


def first(tab: Any) -> Any:
    return tab.locator("section.ranking[data-protocol=strict] table.sortable").first


def names(table: Any) -> list[str]:
    """The method names of a table, from above, as far as they are in sight."""
    return [c.inner_text() for c in table.locator("tbody th").all() if c.is_visible()]


def test_sorting_by_a_column_keeps_the_incomplete_below_and_is_linked(report: Path) -> None:
    with opened(report) as tab:
        table = first(tab)
        assert names(table) == ["alpha", "beta[depth=3]", "gamma"]
        table.get_by_role("button", name="Image AUROC").click()
        table.get_by_role("button", name="Image AUROC").click()
        assert names(table) == ["beta[depth=3]", "alpha", "gamma"]
        assert table.locator("th[aria-sort=ascending]").count() == 1
        link = tab.evaluate("location.hash")
    with opened(report, link) as tab:
        assert names(first(tab)) == ["beta[depth=3]", "alpha", "gamma"]


def test_filters_hide_rows_columns_and_rankings_and_are_linked(report: Path) -> None:
    with opened(report) as tab:
        tab.get_by_label("Protocol").select_option("strict")
        tab.get_by_role("searchbox", name="Methods").fill("alp, gam")
        tab.get_by_role("searchbox", name="Categories").fill("nut")
        tab.get_by_label("Metric").select_option("aupro")
        assert tab.locator("section.ranking:visible").count() == 1
        assert names(first(tab)) == ["alpha", "gamma"]
        heads = first(tab).locator("thead th:visible").all_inner_texts()
        assert heads == ["Method", "AUPRO", "Images/s", "Training", "Peak memory"]
        categories = tab.locator("section.ranking:visible details.lazy table:visible").first
        assert categories.locator("thead th:visible").all_inner_texts() == ["Method", "mean", "nut"]
        assert tab.get_by_role("status").inner_text() == "2 of 3 methods shown"
        link = tab.evaluate("location.hash")
    with opened(report, link) as tab:
        assert names(first(tab)) == ["alpha", "gamma"]
        tab.get_by_role("button", name="Show all").click()
        assert tab.locator("section.ranking:visible").count() == 2
        assert tab.evaluate("location.hash") == ""


def test_a_cell_opens_its_runs_curve_command_and_failure(report: Path) -> None:
    with opened(report) as tab:
        section = tab.locator("section.ranking[data-protocol=strict]")
        section.get_by_text("Per category").click()
        table = section.locator("details.lazy table").first
        table.locator("tbody tr[data-method='2'] td").nth(2).get_by_role("button").click()
        dialog = tab.get_by_role("dialog")
        text = dialog.inner_text()
        assert "gamma" in text
        assert "failed" in text
        assert "Traceback: line 7 <b>" in text
        assert "--methods gamma --datasets made_up --categories nut --seeds 0,1 --protocol strict" in text
        assert "--set gamma.lr=0.01" in text
        assert "72.00" in text
        assert dialog.locator("svg.chart").count() >= 2
        assert record_path(Path(), run("gamma", "nut", 0).spec, run("gamma", "nut", 0).key).as_posix() in text
        link = tab.evaluate("location.hash")
        tab.keyboard.press("Escape")
        assert not dialog.is_visible()
    with opened(report, link) as tab:
        tab.get_by_role("dialog").wait_for()
        assert "gamma" in tab.get_by_role("dialog").inner_text()


def test_an_opened_cell_says_what_its_numbers_were_made_from(report: Path, tmp_path: Path) -> None:
    for seed, change in enumerate(
        ({}, {"made_from": "0123456789abcdef"}, {"rescored": "2026-05-06T07:08:09"})
    ):
        write_record(tmp_path / "results", run("alpha", "bolt", seed).model_copy(update=change))
    write(tmp_path / "results", tmp_path / "report")
    for page, wanted in (
        (tmp_path / "report" / "index.html", ["–", "parts of 0123456789abcdef", "its maps, 2026-05-06"]),
        (report, []),
    ):
        with opened(page) as tab:
            tab.get_by_text("Per category").first.click()
            tab.locator("details.lazy table.opens td").get_by_role("button").nth(1).click()
            tab.get_by_role("dialog").wait_for()
            table = tab.locator("dialog table").first
            heads = table.locator("thead th").all_inner_texts()
            assert ("Made from" in heads, "was made from" in tab.get_by_role("dialog").inner_text()) == (
                bool(wanted),
                bool(wanted),
            )
            if wanted:
                assert table.locator("tbody tr td:last-child").all_inner_texts() == wanted


def _opened_summary(page: Path, method: int, column: int) -> tuple[dict[str, str], str]:
    """Of an opened cell by category: mean and interval of image AUROC, and what is said of them."""
    with opened(page) as tab:
        section = tab.locator("section.ranking[data-protocol=strict]")
        section.get_by_text("Per category").click()
        table = section.locator("details.lazy table").first
        table.locator(f"tbody tr[data-method='{method}'] td").nth(column).get_by_role("button").click()
        dialog = tab.get_by_role("dialog")
        # It opens once the runs are unpacked.
        dialog.wait_for()
        rows = [row.locator("th, td").all_inner_texts() for row in dialog.locator("tfoot tr").all()]
        first = 2 if column == 0 else 1
        return {row[0]: row[first] for row in rows}, dialog.locator("p").first.inner_text()


def test_an_opened_cell_says_how_sure_its_mean_is(report: Path, tmp_path: Path) -> None:
    table = pd.read_csv(report.with_name("leaderboard.csv"))
    wanted = "protocol == 'strict' and split == 'all' and metric == 'image_auroc' and method == 'alpha'"
    (row,) = table.query(f"{wanted} and category == 'nut'").to_dict("records")
    found, about = _opened_summary(report, 0, 2)
    assert found == {"Mean": f"{row['mean']:.2f}", "95 % interval": f"{row['low']:.2f} to {row['high']:.2f}"}
    assert about == "Interval of the mean by Student's t over 2 seeds."
    # Over the categories it is that of the table of means.
    values = table.query(f"{wanted} and category != 'mean'")["mean"].to_numpy()
    low, high = stats.t.interval(0.95, 2, values.mean(), values.std(ddof=1) / 3**0.5)
    found, about = _opened_summary(report, 0, 0)
    assert found == {"Mean": f"{values.mean():.2f}", "95 % interval": f"{low:.2f} to {high:.2f}"}
    assert about == "Interval of the mean by Student's t over 3 categories, each the mean of 2 seeds."
    # Of gamma's two seeds on nuts one failed; its mean over categories does not exist.
    assert _opened_summary(report, 2, 2) == ({}, "One of 2 seeds only: there is no interval.")
    assert (
        _opened_summary(report, 2, 0)[1] == "Not every run has a number: there is no mean, and no interval."
    )
    for category in CATEGORIES:
        write_record(tmp_path / "results", run("alpha", category, 0))
    write(tmp_path / "results", tmp_path / "out")
    page = tmp_path / "out" / "index.html"
    assert _opened_summary(page, 0, 1) == ({}, "One seed only: there is no interval.")
    assert "3 categories, each with one seed only" in _opened_summary(page, 0, 0)[1]


def test_the_gallery_shows_every_methods_map(report: Path) -> None:
    with opened(report) as tab:
        section = tab.locator("section.ranking[data-protocol=strict]")
        section.get_by_text("Gallery").click()
        table = section.locator("details.gallery table").first
        assert table.locator("thead th").all_inner_texts() == ["Image", "Test image", "Mask", *METHODS]
        pictures = table.locator("img")
        assert pictures.count() == 3 * (2 + len(METHODS))
        pictures.first.scroll_into_view_if_needed()
        assert pictures.first.evaluate("i => i.decode().then(() => i.naturalWidth)") == 64
        for title in ("Typical: structural", "Worst misses", "Worst false alarms", "Disagreement"):
            assert section.get_by_text(title).is_visible()
        figures = section.locator("details.gallery figure.curves")
        assert figures.count() == len(METHODS)
        assert figures.first.locator("svg.chart").count() == 4
        table.get_by_role("link", name="Anomaly map of alpha").first.click()
        assert tab.evaluate("[location.protocol, document.images[0].naturalWidth]") == ["file:", 64]


def test_the_page_is_whole_without_a_script(report: Path) -> None:
    with opened(report, java_script_enabled=False) as tab:
        assert names(first(tab)) == ["alpha", "beta[depth=3]", "gamma"]
        assert not tab.locator("#tools").is_visible()
        tab.get_by_text("Per category").first.click()
        assert tab.locator("details.lazy table").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_on_any_view(report: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    with opened(report, color_scheme=scheme, viewport={"width": width, "height": 800}) as tab:

        def check() -> None:
            found = axe.run(tab, options=options).response["violations"]
            assert not [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]

        check()
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        check()
        tab.locator("table.opens td button").first.evaluate("b => b.click()")
        tab.get_by_role("dialog").wait_for()
        check()


def test_on_a_phone_only_tables_scroll_sideways_and_names_stay(report: Path) -> None:
    with opened(report, viewport={"width": 390, "height": 800}) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.evaluate("document.querySelector('table.opens').parentElement.scrollLeft = 200")
        assert first(tab).locator("tbody th").first.bounding_box()["x"] >= 0


def test_a_hostile_name_does_nothing_in_the_script(tmp_path: Path) -> None:
    odd = "<img src=x onerror=document.title='hit'>"
    made = run("alpha", "bolt", 0)
    spec = made.spec.model_copy(update={"method": odd, "category": odd, "dataset": odd})
    write_record(tmp_path / "results", made.model_copy(update={"spec": spec, "categories": [odd]}))
    write(tmp_path / "results", tmp_path / "report")
    with opened(tmp_path / "report" / "index.html") as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        # Cells are buttons once their table is near.
        tab.locator("details.lazy table.opens td button").nth(1).evaluate("b => b.click()")
        tab.get_by_role("dialog").wait_for()
        assert odd in tab.get_by_role("dialog").inner_text()
        assert tab.locator("img").count() == 0
        assert tab.title() == "Leaderboard · ulsad-bench"


def test_pareto_front_by_hand() -> None:
    a, b, c, d = Point("a", 1, 90), Point("b", 5, 80), Point("c", 4, 80), Point("d", 9, 70)
    assert pareto([d, c, a, b]) == [a, b, d]
    assert "&lt;x" in scatter_svg([Point("<x", 1, 50)], "x", "y")


def test_choices_are_those_that_tell_most() -> None:
    places = np.array([[0.1, 0.9, 0.0, 1.0, 0.5], [0.2, 0.8, 1.0, 0.9, 0.5]])
    kinds = ["normal", "normal", "structural", "structural", "logical"]
    found = {
        title: chosen
        for title, _, chosen in gallery_choices(places, np.array([k != "normal" for k in kinds]), kinds)
    }
    assert found["Disagreement"][0] == 2
    assert found["Worst misses"][0] in (2, 4)
    assert found["Worst false alarms"] == [1, 0]
    assert found["Typical: logical"] == [4]


def test_the_command_is_one_that_a_shell_takes_apart_again() -> None:
    spec = RunSpec(
        dataset="my set",
        category="x",
        method="anomalib:Stfpm[a=1]",
        params={"a": 1, "layers": ["l1", "l2"]},
        seed=0,
        limit_train=5,
        backbone_weights="none",
        evaluate="native",
    )
    assert command(spec) == (
        "bench run --methods 'anomalib:Stfpm[a=1]' --datasets 'my set' --categories {category} "
        "--seeds {seed} --protocol strict --image-size 256 --set 'anomalib:Stfpm.layers=[l1,l2]' "
        "--limit-train 5 --backbone-weights none --evaluate native"
    )


def test_thumbnails_that_are_damaged_are_as_if_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.images.safetensors"
    assert load_pictures(path) is None
    path.write_bytes(b"no tensors")
    assert load_pictures(path) is None
