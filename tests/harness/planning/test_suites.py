"""Suites as data: inheritance, sizes, protocols of one ingredient each, contamination, keys that stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.main import main
from harness.common.errors import UserError
from harness.data.card import CategoryCounts, load_card
from harness.data.image_cache import load_images, load_masks
from harness.data.image_roles import assign, remaining, sizes
from harness.planning.cost_estimate import predicted, size_of
from harness.planning.suites import load_suite, override, suite_names
from harness.registry.configuration import configure_methods
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import PROTOCOLS, ImageFit
from harness.spec.record import RunRecord, Timings
from harness.spec.run import Identity, RunSpec, run_key
from harness.spec.suite import Suite
from tests.harness.execution import test_run
from tests.harness.places import fill

place, bench, RUN, records = test_run.place, test_run.bench, test_run.RUN, test_run.records
Bench = Callable[..., Any]
IDENTITY = Identity(method_version=1, config={"a": 1}, weights={"w": "0"}, data="d", score_rule="max")


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({"dataset": "x", "category": "c", "method": "m", "seed": 0} | fields)


@pytest.mark.parametrize(
    ("fields", "key", "short"),
    [
        ({}, "a76c77493930285d", "strict-256-c23b0994"),
        ({"evaluate": "native"}, "aa955ae5508a6e76", "strict-256-c44f223e"),
        ({"limit_train": 5}, "d0ee66b82ae2d7cc", "strict-256-91776e2c"),
        ({"protocol": "paper"}, "247ca034f7a9f9a2", "paper-256-41bc6fdf"),
        ({"protocol": "paper", "evaluate": "native"}, "fa6a4fca4b31108f", "paper-256-1579fb65"),
    ],
)
def test_keys_and_fingerprints_of_earlier_records_stay(fields: dict[str, Any], key: str, short: str) -> None:
    assert run_key(spec(**fields), IDENTITY) == key
    assert fingerprint(spec(**fields), IDENTITY, 1).short() == short


def test_every_protocol_and_share_is_ranked_apart() -> None:
    made = [spec(protocol=p, contamination=c) for p in PROTOCOLS for c in (0.0, 0.01, 0.1)]
    assert len({fingerprint(one, IDENTITY, 1).short() for one in made}) == len(made)
    assert len({run_key(one, IDENTITY) for one in made}) == len(made)


def test_ingredients_differ_from_strict_in_one_thing_and_say_where_they_use_test_data() -> None:
    strict = PROTOCOLS["strict"].model_dump(exclude={"name", "about"})
    for name, protocol in PROTOCOLS.items():
        own = protocol.model_dump(exclude={"name", "about"})
        changed = {field for field in own if own[field] != strict[field]}
        assert len(changed) == {"strict": 0, "paper": 4}.get(name, 1), name
        assert protocol.uses_test_data == bool(changed & {"validation", "selection", "stopping"})
        assert ("test data" in protocol.about or name in ("strict", "paper")) and bool(protocol.badge) == (
            protocol.uses_test_data
        )


# Inheritance


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_suite_has_what_it_extends_but_for_what_it_says(tmp_path: Path) -> None:
    base = 'title = "B"\nabout = "b"\nmethods = ["ulsad", "dfr"]\ndatasets = ["demo"]\nseeds = [0, 1]\n'
    write(tmp_path, "base.toml", base + "[set.ulsad]\nepochs = 5\nlr = 1e-3\n[set.dfr]\nepochs = 7\n")
    middle = write(tmp_path, "middle.toml", 'extends = "base.toml"\ntitle = "M"\nseeds = [2]\n')
    own = write(tmp_path, "own.toml", f'extends = "{middle}"\ntitle = "O"\n[set.ulsad]\nepochs = 9\n')
    suite = load_suite(own)
    assert (suite.title, suite.about, suite.methods, suite.seeds) == ("O", "", ["ulsad", "dfr"], [2])
    assert suite.set == {"ulsad": {"epochs": 9, "lr": 1e-3}, "dfr": {"epochs": 7}}
    less = write(tmp_path, "less.toml", 'extends = "base.toml"\ntitle = "L"\nmethods = ["ulsad[lr=1]"]\n')
    assert load_suite(less).set == {"ulsad": {"epochs": 5, "lr": 1e-3}}, "of methods that are run"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('extends = "own.toml"\n', "it extends itself"),
        ('extends = "nowhere.toml"\n', "field 'extends': There is no suite file"),
        ('extends = "dmo"\n', "There is no suite 'dmo'.*demo"),
        ("extends = 3\n", "the name or the path of one suite"),
        ('extends = "demo"\n', "field 'title': Field required"),
        ('extends = "demo"\ntitle = "T"\nset = 3\n', "field 'set'"),
        ('extends = "demo"\ntitle = "T"\n[set]\nulsad = 3\n', "field 'set.ulsad'"),
        ('extends = "demo"\ntitle = "T"\ncontamination = [0.9]\n', "field 'contamination.0'"),
    ],
)
def test_what_is_wrong_with_a_suite_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_suite(write(tmp_path, "own.toml", text))


def test_every_suite_is_valid_and_has_a_size() -> None:
    listed = CliRunner().invoke(main, ["list", "suites", "--results", "nowhere"])
    assert listed.exit_code == 0, listed.output
    for name in suite_names():
        suite = load_suite(name)
        assert suite.title in listed.output
        assert size_of(suite).runs > 0
        assert not set(suite.protocols) - PROTOCOLS.keys()
    assert size_of(load_suite("ablation-components")).runs == 10 * 5 * 5
    quantiles = size_of(load_suite("quantiles"))
    assert (quantiles.runs, quantiles.points) == (25, 25 * 30)


def test_settings_hold_for_every_variant_of_a_method() -> None:
    suite = override(load_suite("ablation-components"), {}, ["ulsad.epochs=2"])
    found = configure_methods(suite)
    assert len({one.label for one in found}) == 10
    assert {one.config.model_dump()["epochs"] for one in found} == {2}


def test_costs_are_those_of_earlier_runs_as_long_or_are_not_predicted() -> None:
    suite = load_suite("ablation-local")
    size = size_of(suite)
    assert predicted(suite, size, []) == "not predicted: no earlier records of such runs"
    (full, *_) = configure_methods(override(load_suite("loco"), {"methods": ["ulsad"]}, []))
    of = spec(method="ulsad")
    identity = IDENTITY.model_copy(update={"config": full.config.model_dump(mode="json")})
    spent = Timings(load=0, fit=3500, predict=100, evaluate=0, images_per_second=1)
    one = RunRecord(
        key="a",
        spec=of,
        identity=identity,
        fingerprint=fingerprint(of, identity, 1),
        outcome="ok",
        timings=spent,
        environment={"gpu": "NVIDIA Simulated"},
    )
    assert predicted(suite, size, [one]) == "about 125.0 h on NVIDIA Simulated"
    # Five methods with five seeds: as many hours as the categories are larger than what was measured.
    counted = one.model_copy(update={"counts": {"train": 70, "test": 80}})
    images = [sizes(c.train or 0, c.validation, sum((c.test or {}).values()), of) for c in of_suite(suite)]
    hours = sum(3500 * train / 70 + 100 * test / 80 for train, test in images) * 25 / 3600
    assert predicted(suite, size, [counted]) == f"about {hours:.1f} h on NVIDIA Simulated"
    short = IDENTITY.model_copy(update={"config": identity.config | {"epochs": 2}})
    assert predicted(suite, size, [one.model_copy(update={"identity": short})]).startswith("not predicted")
    mixed = load_suite("loco")
    assert predicted(mixed, size_of(mixed), [one]).endswith("8 of 9 methods not predicted")


def of_suite(suite: Suite) -> list[CategoryCounts]:
    return [category for name in suite.datasets for category in load_card(name).categories]


# Contamination

KINDS = ["normal"] * 10 + ["anomalous"] * 30


def test_moved_images_are_anomalous_seeded_nested_and_no_longer_tested() -> None:
    few, many = (assign(90, 9, KINDS, spec(contamination=share)) for share in (0.01, 0.1))
    assert (len(few.moved), len(many.moved)) == (1, 10), "of the training images then: 1 and 10 %"
    assert len(assign(9, 9, KINDS, spec(contamination=0.001)).moved) == 1, "no clean run is called otherwise"
    assert set(few.moved) < set(many.moved)
    assert {KINDS[i] for i in many.moved} == {"anomalous"}
    assert sorted([*many.moved, *many.test]) == list(range(40))
    assert many.train == assign(90, 9, KINDS, spec()).train
    assert many.moved != assign(90, 9, KINDS, spec(contamination=0.1, seed=1)).moved
    assert remaining(KINDS, 10, 0) == list(many.test)
    assert assign(90, 9, KINDS, spec()).test == tuple(range(40))


def test_a_share_that_would_empty_the_test_set_is_refused() -> None:
    with pytest.raises(UserError, match="90 normal training images there would be 30 anomalous ones"):
        assign(90, 9, KINDS, spec(contamination=0.25))


def test_the_contamination_suite_fits_its_datasets() -> None:
    suite = load_suite("contamination")
    for name in suite.datasets:
        for category in load_card(name).categories:
            assert category.test is not None and isinstance(category.train, int)
            kinds = [kind for kind, count in category.test.items() for _ in range(int(count or 0))]
            for share in suite.contamination:
                assign(category.train, int(category.validation or 0), kinds, spec(contamination=share))


@pytest.mark.parametrize("fields", [{}, {"contamination": 0.1}, {"limit_train": 20}, {"protocol": "paper"}])
@pytest.mark.parametrize("validation", [0, 9])
def test_sizes_are_those_of_the_roles(fields: dict[str, Any], validation: int) -> None:
    roles = assign(90, validation, KINDS, spec(**fields))
    assert sizes(90, validation, 40, spec(**fields)) == (len(roles.train + roles.moved), len(roles.test))


@pytest.mark.slow
def test_contaminated_runs_are_recorded_and_scored_again_alike(place: Path, bench: Bench) -> None:
    # Of 9 training images one more is 10 %.
    done = bench(*RUN, "--categories", "a", "--contamination", "0,0.1", "--keep", "maps")
    assert done.returncode == 0, done.stderr
    clean, dirty = sorted(records(place).values(), key=lambda record: record.spec.contamination)
    assert "moved" not in clean.counts
    assert (dirty.counts["train"], dirty.counts["moved"], dirty.counts["test"]) == (10, 1, 7)
    assert dirty.counts["anomalous"] == clean.counts["anomalous"] - 1
    assert dirty.fingerprint.contamination == 0.1
    page = (place / "report" / "index.html").read_text()
    assert "10 % anomalous training images" in page
    again = bench("rescore", "--cards", "own.toml")
    assert "2 records re-scored, 0 refused" in again.stdout, again.stdout
    assert {r.key: r.metrics for r in records(place).values()} == {r.key: r.metrics for r in (clean, dirty)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--contamination", "0.4"), "choose a smaller share"),
        (("--contamination", "5"), "below 0.5"),
        (("--contamination", "few"), "no list of shares"),
        (("--protocol", "centre-crop", "--evaluate", "native"), "crops images"),
        (("--keep", "parts"), "no method of this run has post-processing"),
        (("--keep", "part"), "maps, weights and parts"),
        (("--pack", "two"), "no number from 1 to 64, and not auto"),
    ],
)
def test_what_cannot_be_is_refused_before_any_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("BENCH_CACHE", str(place / "cache"))
    monkeypatch.setenv("BENCH_DATA", str(place / "data"))
    done = CliRunner().invoke(main, [*RUN, *options])
    assert done.exit_code == 2
    assert said in done.output
    assert not (place / "results").exists()


# Ingredients


def test_a_centre_crop_is_the_middle_of_a_larger_image(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"]
    for resize in ("antialiased", "opencv"):
        whole = load_images(paths, ImageFit(64, resize), tmp_path / "cache")  # type: ignore[arg-type]
        middle = load_images(paths, ImageFit(56, resize, "centre"), tmp_path / "cache")  # type: ignore[arg-type]
        assert (middle == whole[:, 4:60, 4:60]).all()
    mask = load_masks([paths], ImageFit(56, crop="centre"), tmp_path / "cache")
    assert mask.shape == (1, 56, 56)
    assert not mask.any(), "a defect at the border is cut off"
    assert load_masks([paths], ImageFit(64), tmp_path / "cache").any()


@pytest.mark.slow
def test_each_ingredient_does_what_it_says(place: Path, bench: Bench) -> None:
    names = [name for name in PROTOCOLS if name != "paper"]
    fill(place)
    run = [*RUN[:2], "mine.py:Mine[epochs=15]", *RUN[3:], "--categories", "a", "--keep", "maps"]
    done = bench(*run, "--protocol", ",".join(names))
    assert done.returncode == 0, done.stderr
    found = {record.spec.protocol: record for record in records(place).values()}
    assert len(found) == len(names)
    assert found["strict"].selected_epoch == 15
    # Every epoch is perfect here: the first counts, and after ten more without a better one training ends.
    assert found["test-epoch"].selected_epoch == 1
    assert found["test-epoch"].metrics_last is not None
    assert len(found["early-stop"].epochs) == found["early-stop"].selected_epoch == 11
    assert found["early-stop"].metrics_last is None
    assert (found["test-statistics"].counts["train"], found["test-statistics"].counts["validation"]) == (
        10,
        18,
    )
    assert (found["drop-last"].counts["test"], found["drop-last"].counts["unscored"]) == (32, 2)
    assert not any("unscored" in record.counts for name, record in found.items() if name != "drop-last")
    assert found["centre-crop"].fingerprint.crop == "centre"
    assert found["opencv-resize"].fingerprint.resize == "opencv"
    page = (place / "report" / "index.html").read_text()
    unscored = "5.9 % of the test images not scored, as in the published code"
    for badge in ("selects on test data", "stops on test data", "statistics from test data", unscored):
        assert badge in page
    before = {r.key: r.metrics for r in records(place).values()}
    again = bench("rescore", "--cards", "own.toml")
    assert f"{len(names)} records re-scored, 0 refused" in again.stdout, again.stdout
    assert {r.key: r.metrics for r in records(place).values()} == before
