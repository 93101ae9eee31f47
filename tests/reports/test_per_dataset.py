"""One report for each dataset, where there are too many records for one of all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.common.errors import UserError
from reports import write as module
from reports.write import write
from tests.reports.browser import opened
from tests.reports.simulated import Simulation


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 records of six datasets, more than one report takes."""
    monkeypatch.setattr(module, "LIMIT", 200)
    Simulation(300, seeds=1, epochs=1, categories=("a", "b"), protocols=("strict",)).write(tmp_path / "r")
    return tmp_path / "r"


def test_each_dataset_has_the_report_of_its_records_alone(results: Path, tmp_path: Path) -> None:
    said = write(results, tmp_path / "all", formats="csv,html,latex")
    names = sorted(folder.name for folder in results.iterdir())
    assert len(names) == 6
    for name in names:
        write(results, tmp_path / name, datasets=name, formats="csv,html,latex")
        own = tmp_path / "all/datasets" / name
        for file in ("leaderboard.csv", "tables/leaderboard.tex"):
            alone = sorted((tmp_path / name).glob(file))
            assert [path.read_bytes() for path in alone] == [
                path.read_bytes() for path in sorted(own.glob(file))
            ]
        assert (own / "index.html").is_file()
    text = (tmp_path / "all/index.html").read_text()
    links = re.findall(r'href="(datasets/[^"#]+)#?([^"]*)"', text)
    assert len(links) == 2 * len(names)
    for path, part in links:
        assert f'id="{part}"' in (tmp_path / "all" / path).read_text() or not part
    assert said[-1] == f"Report: {tmp_path / 'all/index.html'}"


def test_names_of_datasets_choose_what_is_reported(results: Path, tmp_path: Path) -> None:
    write(results, tmp_path / "two", datasets="simulated_1, simulated_4", formats="csv")
    rows = (tmp_path / "two/leaderboard.csv").read_text().splitlines()[1:]
    assert {row.partition(",")[0] for row in rows} == {"simulated_1", "simulated_4"}
    with pytest.raises(UserError, match=r"no records of 'nope' .* there are of simulated_0, simulated_1"):
        write(results, tmp_path / "two", datasets="simulated_1,nope")


def test_what_needs_all_records_at_once_is_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"300 are too many: name some of the datasets"):
        write(results, tmp_path / "report", wanted="paper")
    write(results, tmp_path / "report", wanted="paper", datasets="simulated_1", formats="csv")


def test_a_dataset_without_a_readable_record_is_named_and_the_others_reported(
    results: Path, tmp_path: Path
) -> None:
    for record in (results / "simulated_2").rglob("*.json"):
        record.write_text("{")
    said = write(results, tmp_path / "report")
    assert "simulated_2 has no readable record; `bench verify` names what is wrong." in said
    assert (tmp_path / "report/datasets/simulated_3/index.html").is_file()
    assert "simulated_2 has no readable record" in (tmp_path / "report/index.html").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page_that_leads_to_the_others(
    results: Path, tmp_path: Path, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    write(results, tmp_path / "report", formats="html")
    with opened(
        tmp_path / "report/index.html", color_scheme=scheme, viewport={"width": 390, "height": 800}
    ) as tab:
        found = axe.run(tab).response["violations"]
        assert not [violation["id"] for violation in found]
        # A wide table scrolls by itself, and no page sideways.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.get_by_role("link", name="simulated_1").first.click()
        assert "simulated_1" in tab.inner_text("main")
