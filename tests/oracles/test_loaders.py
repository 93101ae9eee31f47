"""Which test images `paper` scores, against the loaders of ULSAD's published code."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.data.card import NORMAL, load_card
from harness.data.image_roles import assign
from harness.data.samples import scan_category
from harness.data.unscored import official_counts
from harness.spec.protocols import unfilled
from harness.spec.run import RunSpec
from tests.oracles.agreement import Agree, golden

AUTHORS = "ULSAD's code, c75e169"
GOLDEN = golden("loaders")


def make(root: Path, given: dict[str, Any]) -> None:
    """Makes the files of a category's test images, empty, as the authors' data modules were given them."""
    rows = []
    for part in given["test"]:
        folder = root / given["category"] / part["folder"]
        folder.mkdir(parents=True)
        for number in range(part["images"]):
            path = folder / part["names"].format(number)
            path.touch()
            label = "anomaly" if "Anomaly" in part["folder"] else "normal"
            rows.append([given["category"], "test", label, path.relative_to(root).as_posix(), ""])
    if given["dataset"] == "visa":
        (root / "split_csv").mkdir()
        with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])


@pytest.mark.parametrize("given", GOLDEN["categories"], ids=lambda g: f"{g['dataset']}-{g['category']}")
def test_paper_scores_the_images_that_the_authors_loader_gives(
    given: dict[str, Any], tmp_path: Path, agree: Agree
) -> None:
    make(tmp_path, given)
    samples = scan_category(load_card(given["dataset"]), given["category"], tmp_path).test
    spec = RunSpec(dataset=given["dataset"], category=given["category"], method="m", seed=0, protocol="paper")
    roles = assign(100, 0, [sample.kind for sample in samples], spec)
    # The authors' code copies VisA's images into folders of these names.
    renamed = {"Anomaly": "bad", "Normal": "good"}
    names = [f"{renamed.get(s.image.parent.name, s.image.parent.name)}/{s.image.name}" for s in samples]
    assert len(names) == given["images"]
    wrong = {names[row] for row in roles.unscored} ^ {*given["dropped"]}
    check = f"{given['category']}: images left out, {len(given['dropped'])} of {given['images']}"
    agree(f"protocol paper, {given['dataset']}", check, AUTHORS, len(wrong), 0, unit="items")
    scored = [names[row] for row in roles.test]
    assert (len(scored), scored[0], scored[-1]) == (given["scored"], given["first"], given["last"])
    assert hashlib.sha256("\n".join(scored).encode()).hexdigest() == given["scored_sha256"], "in their order"
    assert len(roles.normals) == given["normal_scored"]
    assert all(samples[row].kind == NORMAL for row in roles.normals)


def test_the_cards_give_the_numbers_of_images_that_are_not_scored(
    agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: tuple(counts) for name, counts in GOLDEN["datasets"].items()}
    counts = official_counts()
    ours = {name: (sum(map(unfilled, own.values())), sum(own.values())) for name, own in counts.items()}
    assert ours.keys() == expected.keys()
    for name, (unscored, images) in expected.items():
        apart = abs(ours[name][0] - unscored) + abs(ours[name][1] - images)
        check = f"test images left out, {unscored} of {images:,}"
        agree(f"protocol paper, {name}", check, "official counts, by hand", apart, 0, unit="items")
    monkeypatch.delenv("BENCH_DATA", raising=False)
    words = ["plan", "--methods", "ulsad", "--datasets", "all", "--protocol", "paper"]
    told = CliRunner().invoke(main, words).output
    (total,) = re.findall(r"as in the published code: (\d+) of 6,654 test images", told)
    agree(
        "protocol paper",
        "bench plan: 574 of 6,654",
        "official counts, by hand",
        abs(int(total) - 574),
        0,
        "items",
    )
    assert all(f"\n  {name} {lost} of {images:,}" in told for name, (lost, images) in expected.items())
