"""Protocols that drop incomplete batches: which images that leaves out, and who says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.checks.records import mistakes
from harness.cli.main import main
from harness.common.errors import UserError
from harness.data.card import NORMAL
from harness.data.image_roles import assign, scored, sizes
from harness.data.unscored import official_counts
from harness.registry.methods import load_method, method_names, stated_versions
from harness.results.artefacts import pictures_path, view_path
from harness.results.category_pictures import load_pictures
from harness.results.map_views import load_view
from harness.results.maps import load_maps
from harness.spec.fingerprints import fingerprint
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec, run_key
from tests.harness.places import bench, fill, inside, make_place, records

# In the order of paths, as MPDD's metal_plate: normal images first.
KINDS = [NORMAL] * 26 + ["anomalous"] * 71
EARLY = Identity(method_version=1, config={}, weights={}, data="d", score_rule="max")
NOW = EARLY.model_copy(update={"incomplete_batches": "dropped"})

# Says in its record's losses how many images it saw in an epoch.
SEEN = '''
"""Distance to the mean training image; an epoch's loss is how many images it saw."""
import torch

from harness import Citation, Epoch, Hyperparameters, Method, Prediction


class Seen(Method):
    version = 1
    citation = Citation(title="Seen", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        batch_size: int = 4

    def fit(self, data, on_epoch):
        generator = torch.Generator().manual_seed(data.seed)
        images = torch.cat(list(data.shuffled(self.config.batch_size, generator)))
        self.mean = images.float().mean(dim=0)
        on_epoch(Epoch(1, 1, {"seen": float(len(images))}))

    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]
'''
RUN = ("run", "--methods", "seen.py:Seen", "--datasets", "own.toml", "--device", "cpu", "--measure", 0)


def spec(protocol: str = "paper", **fields: Any) -> RunSpec:
    known = {"dataset": "mpdd", "category": "c", "method": "m", "seed": 0, "protocol": protocol}
    return RunSpec.model_validate(known | fields)


# Roles


def test_the_last_test_images_that_fill_no_batch_are_neither_scored_nor_validated_on() -> None:
    roles = assign(54, 0, KINDS, spec())
    assert roles.test == tuple(range(96))
    assert roles.unscored == (96,)
    assert roles.normals == tuple(range(26))
    # As MVTec's toothbrush: the normal images are the last, and two of twelve are left.
    roles = assign(60, 0, ["anomalous"] * 30 + [NORMAL] * 12, spec())
    assert roles.normals == (30, 31)
    assert roles.test == tuple(range(32))
    assert roles.unscored == tuple(range(32, 42))


def test_drop_last_is_strict_but_for_that() -> None:
    strict, dropped = (assign(54, 0, KINDS, spec(name)) for name in ("strict", "drop-last"))
    assert (dropped.train, dropped.held_out, dropped.normals) == (strict.train, strict.held_out, ())
    assert strict.test == (*dropped.test, *dropped.unscored)
    assert not strict.unscored


def test_moved_images_go_first() -> None:
    roles = assign(54, 0, KINDS, spec(contamination=0.1))
    left = [row for row in range(97) if row not in roles.moved]
    assert len(roles.moved) == 6
    assert roles.test == tuple(left[:64])
    assert roles.unscored == tuple(left[64:])
    assert scored(left, "dropped") == left[:64]
    assert sizes(54, 0, 97, spec(contamination=0.1)) == (60, 64)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (KINDS[14:38], "there are 24 test images, and the protocol scores full batches of 32 alone"),
        (["anomalous"] * 32 + [NORMAL] * 5, r"none among the 32 that it scores \(5 of 37 are normal\)"),
        (["anomalous"] * 40, "needs normal test images, there is none"),
    ],
)
def test_a_test_set_that_leaves_nothing_is_refused(kinds: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"mpdd/c · m · seed 0 · paper: .*{said}"):
        assign(54, 0, kinds, spec())


# Keys and records


def test_records_of_paper_from_before_are_others() -> None:
    assert run_key(spec(), EARLY) != run_key(spec(), NOW)
    before, now = (fingerprint(spec(), identity, 1) for identity in (EARLY, NOW))
    assert (before.incomplete_batches, now.incomplete_batches) == ("kept", "dropped")
    assert before.short() != now.short()
    assert {p for p in PROTOCOLS if PROTOCOLS[p].incomplete_batches == "dropped"} == {"paper", "drop-last"}


def test_verify_holds_the_counts() -> None:
    path = Path(__file__).parents[2] / "museum" / "2026-drop-last.json"
    content = json.loads(path.read_text())
    record = RunRecord.model_validate(content)
    assert [*mistakes(record, content)] == []
    for update, said in (
        ({"unscored": 40}, "which do not fill batches of 32"),
        ({"test": 31, NORMAL: record.counts[NORMAL] - 1}, "which do not fill batches of 32"),
    ):
        wrong = record.model_copy(update={"counts": record.counts | update, "checksum": ""})
        assert any(said in mistake for mistake in mistakes(wrong, content)), update
    less = {name: count for name, count in record.counts.items() if name != "unscored"}
    wrong = record.model_copy(update={"counts": less, "checksum": ""})
    assert "does not count test images that were left out" in [*mistakes(wrong, content)]


# Runs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the records and report of three protocols on 34 test images, and what was printed."""
    place = make_place(tmp_path_factory.mktemp("incomplete"))
    fill(place)
    (place / "seen.py").write_text(SEEN)
    with inside(place):
        words = ("--categories", "a", "--protocol", "strict,drop-last,paper", "--image-size", 64)
        result = bench(*RUN, *words, "--keep", "maps")
    assert result.exit_code == 0, result.output
    return place, result.output


def test_what_is_dropped_is_neither_trained_on_nor_scored_and_counted(done: tuple[Path, str]) -> None:
    place, _ = done
    found = {r.spec.protocol: (path, r) for path, r in records(place).items()}
    seen = {name: record.epochs[0].losses["seen"] for name, (_, record) in found.items()}
    assert seen == {"strict": 9, "drop-last": 8, "paper": 8}
    counts = {name: record.counts for name, (_, record) in found.items()}
    assert counts["strict"] == {"train": 9, "validation": 1, "test": 34, "normal": 18, "anomalous": 16}
    scored = {"test": 32, "normal": 16, "anomalous": 16, "unscored": 2}
    assert counts["drop-last"] == {"train": 9, "validation": 1} | scored
    assert counts["paper"] == {"train": 10, "validation": 16} | scored
    maps = {n: load_maps((place / p).with_suffix(".maps.safetensors"))[0] for n, (p, _) in found.items()}
    assert [len(maps[name]) for name in ("strict", "drop-last", "paper")] == [34, 32, 32]
    assert found["drop-last"][1].fingerprint.incomplete_batches == "dropped"


def test_the_report_says_so_where_the_numbers_stand(done: tuple[Path, str]) -> None:
    place, printed = done
    said = "5.9 % of the test images not scored, as in the published code"
    flat = " ".join(printed.split())
    assert flat.upper().count(said.upper()) == 2, printed
    assert (place / "report" / "index.html").read_text().count(f'<span class="badge">{said}</span>') >= 2
    for name in ("drop-last", "paper", "strict"):
        (table,) = (place / "report").glob(f"*/own-{name}-*-detection.tex")
        assert (said.replace("%", "\\%") in table.read_text()) == (name != "strict")


def test_maps_belong_to_the_images_that_were_scored(done: tuple[Path, str]) -> None:
    place, _ = done
    root = place / "data" / "own" / "a" / "test"
    every = [f"{path.parent.name}/{path.name}" for path in sorted(root.glob("*/*"), key=Path.as_posix)]
    for name, record in records(place).items():
        path = place / name
        view = load_view(view_path(path))
        pictures = load_pictures(pictures_path(path, record.identity.data, 64, record.fingerprint.view))
        assert view is not None and pictures is not None
        own = view.own(pictures)
        assert own is not None
        assert list(own.names) == every[: record.counts["test"]]
        assert list(pictures.names) == every, "for the runs that score all of them"
    page = (place / "report" / "index.html").read_text()
    assert page.count("<summary>Gallery: what the methods see") == 3


def test_the_same_numbers_come_from_the_kept_maps_again(done: tuple[Path, str]) -> None:
    place, _ = done
    before = {path: record.metrics for path, record in records(place).items()}
    with inside(place):
        again = bench("rescore", "--cards", "own.toml")
        assert "3 records re-scored, 0 refused" in again.output, again.output
        assert bench("verify").exit_code == 0
    assert {path: record.metrics for path, record in records(place).items()} == before


def test_a_small_category_is_refused_before_any_run(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    fill(place)
    (place / "seen.py").write_text(SEEN)
    with inside(place):
        refused = bench(*RUN, "--protocol", "strict,paper", "--image-size", 32)
    assert refused.exit_code == 2
    assert "own/b · seen.py:Seen · seed 0 · paper: there are 8 test images" in refused.output
    assert not records(place)


def test_a_batch_larger_than_the_training_set_is_said(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    fill(place)
    (place / "seen.py").write_text(SEEN)
    with inside(place):
        words = (*RUN, "--categories", "a", "--protocol", "paper", "--image-size", 32, "--no-report")
        assert bench(*words, "--set", "seen.py:Seen.batch_size=16").exit_code == 1
    (record,) = records(place).values()
    assert record.failure is not None
    assert "there are 10 training images, and batches of fewer than 16 are left out" in record.failure.message


# Before any run


def test_plan_says_by_the_cards_what_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    words = ["plan", "--methods", "padim", "--datasets", "all", "--protocol"]
    told = CliRunner().invoke(main, [*words, "paper"])
    assert "Not scored under paper, as in the published code: 574 of 6,654 test images (8.6 %)" in told.output
    for part in ("mpdd 74 of 458", "bracket_white 28 of 60", "toothbrush 10 of 42", "official counts"):
        assert part in told.output
    # Planning itself needs data and weights.
    assert told.exit_code == 2
    assert "Not scored" not in CliRunner().invoke(main, [*words, "strict"]).output


def test_plan_counts_the_files_where_they_are(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    fill(place)
    (place / "seen.py").write_text(SEEN)
    with inside(place):
        told = bench("plan", *RUN[1:], "--categories", "a", "--protocol", "drop-last", "--image-size", 32)
    assert told.exit_code == 0, told.output
    assert "Not scored under drop-last, as in the published code: 2 of 34 test images (5.9 %)" in told.output
    assert "official" not in told.output


def test_stated_versions_are_those_of_the_classes() -> None:
    assert stated_versions() == {name: load_method(name).version for name in method_names()}


def test_official_counts_are_those_of_the_five_datasets() -> None:
    assert {name: len(counts) for name, counts in official_counts().items()} == {
        "btad": 3,
        "mpdd": 6,
        "mvtec": 15,
        "mvtec_loco": 5,
        "visa": 12,
    }
