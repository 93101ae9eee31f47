"""`bench rescore`: the run's own metrics again, refusals that touch nothing, writes that are broken off."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import save_file

from harness.cli.main import main
from harness.common import files
from harness.execution import rescore as module
from harness.results.category_pictures import load_pictures
from harness.results.map_views import View, load_view
from harness.results.maps import load_maps
from harness.spec.record import RunRecord
from tests.harness import places

METHOD = '''
"""Distance to the mean training image, with noise that differs from epoch to epoch."""
import torch

from harness import Citation, Epoch, Hyperparameters, Method, Prediction


class Mine(Method):
    version = 1
    citation = Citation(title="Mine", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        fail: bool = False

    def fit(self, data, on_epoch):
        if self.config.fail:
            raise RuntimeError("planted")
        mean = torch.cat(list(data.train.batches(8))).float().mean(dim=0)
        for number in range(1, 4):
            self.mean = mean + 20 * number * torch.randn(mean.shape)
            on_epoch(Epoch(number, 3, {"l": 1 / number}))

    def predict(self, images):
        maps = (images - self.mean).abs().mean(dim=1)
        return Prediction(maps.mean(dim=(1, 2)), maps)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]
'''

CARD = f"""{places.CARD}{places.MASKS}kinds = {{spot = "structural", swap = "logical"}}
"""


def png(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, its card, and the records of runs that kept their maps."""
    place = tmp_path_factory.mktemp("rescore")
    rng = np.random.default_rng(0)
    for category in ("a", "b"):
        own = place / "data" / "own" / category
        for part, count in (("train/good", 6), ("test/good", 14), ("test/spot", 11), ("test/swap", 11)):
            for i in range(count):
                pixels = rng.integers(60, 140, (48, 48, 3), dtype=np.uint8)
                if part in ("test/spot", "test/swap"):
                    y, x = rng.integers(0, 36, 2)
                    pixels[y : y + 12, x : x + 12] += np.uint8(30)
                    mask = np.zeros((48, 48), np.uint8)
                    mask[y : y + 12, x : x + 12] = 255
                    png(own / "ground_truth" / part.removeprefix("test/") / f"{i}.png", mask)
                png(own / part / f"{i}.png", pixels)
    (place / "own.toml").write_text(CARD)
    (place / "mine.py").write_text(METHOD)
    words = ["run", "--methods", "mine.py:Mine", "--datasets", "own.toml", "--protocol", "strict,paper"]
    words += ["--image-size", "96", "--device", "cpu", "--keep", "maps", "--no-report"]
    command = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in place.rglob("*.maps.safetensors"):
        assert b'"exact-32"' in path.read_bytes()[:500]
    return place


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"BENCH_CACHE": str(place / "cache"), "BENCH_DATA": str(place / "data")}


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "place"))


@pytest.fixture
def rescore(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(place)
    for name in ("BENCH_CACHE", "BENCH_DATA"):
        monkeypatch.setenv(name, environment(place)[name])
    return lambda *words: CliRunner().invoke(main, ["rescore", "--cards", "own.toml", *words])


def paths(place: Path) -> list[Path]:
    return sorted((place / "results").glob("*/*/*/*.json"))


def records(place: Path) -> dict[Path, RunRecord]:
    return {path: RunRecord.model_validate_json(path.read_text()) for path in paths(place)}


def contents(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (place / "results").rglob("*") if path.is_file()}


def without_metrics(record: RunRecord) -> dict[str, Any]:
    fields = record.model_dump(exclude={"metrics", "rescored", "checksum"})
    fields["fingerprint"]["metrics_version"] = None
    return fields


def spoil(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_runs_own_metrics_come_out_again(
    place: Path, rescore: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = records(place)
    assert len(before) == 4
    for path, record in before.items():
        assert len(np.unique(load_maps(path.with_suffix(".maps.safetensors"))[0])) > 1 << 15
        spoil(path, metrics={"all": dict.fromkeys(record.metrics["all"], 0.5)})
    monkeypatch.setattr(module, "METRICS_VERSIONS", {"input": 7, "native": 7})
    done = rescore()
    assert done.exit_code == 0, done.output
    assert done.output.count("metrics version 1 → 7") == 4
    assert done.output.splitlines()[-1] == "4 records re-scored, 0 refused."
    after = records(place)
    assert list(after) == list(before)
    for path, old in before.items():
        new = after[path]
        assert without_metrics(new) == without_metrics(old), "all else stays, metrics_last too"
        assert (new.fingerprint.metrics_version, old.rescored) == (7, "")
        assert new.rescored > old.finished
        assert {split: set(values) for split, values in new.metrics.items()} == {
            split: set(values) for split, values in old.metrics.items()
        }
        assert set(new.metrics) == {"all", "structural", "logical"}
        for split, values in old.metrics.items():
            for name, value in values.items():
                assert value is not None
                assert new.metrics[split][name] == pytest.approx(value, rel=0, abs=1e-12)


def test_only_the_metrics_asked_for_are_replaced(place: Path, rescore: Callable[..., Result]) -> None:
    before = records(place)
    for path, record in before.items():
        spoil(path, metrics={split: dict.fromkeys(values, 0.5) for split, values in record.metrics.items()})
    done = rescore("--metrics", "image_auroc,aupro")
    assert done.exit_code == 0, done.output
    for path, record in records(place).items():
        for split, values in record.metrics.items():
            for name, value in values.items():
                expected = before[path].metrics[split][name] if name in ("image_auroc", "aupro") else 0.5
                assert value == pytest.approx(expected, rel=0, abs=1e-12)


def test_some_metrics_alone_need_a_name_and_the_same_version(
    place: Path, rescore: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(place)
    done = rescore("--metrics", "auc")
    assert done.exit_code == 2
    assert "There is no metric 'auc': --metrics takes image_auroc" in done.output
    monkeypatch.setattr(module, "METRICS_VERSIONS", {"input": 7, "native": 7})
    done = rescore("--metrics", "aupro")
    assert done.exit_code == 1
    assert done.output.count("its metrics are of version 1, these of 7: leave out --metrics") == 4
    assert contents(place) == before


def test_a_dry_run_prints_and_writes_nothing(place: Path, rescore: Callable[..., Result]) -> None:
    path = paths(place)[0]
    old = json.loads(path.read_text())
    spoil(path, metrics={"all": old["metrics"]["all"] | {"aupro": 0.0, "image_ap": None}})
    before = contents(place)
    done = rescore("--dry-run")
    assert done.exit_code == 0, done.output
    assert contents(place) == before
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    aupro = old["metrics"]["all"]["aupro"]
    assert any(line.startswith(f"all aupro 0.000000 → {aupro:.6f}") for line in lines)
    assert f"all image_ap – → {old['metrics']['all']['image_ap']:.6f}" in lines
    assert any(line.startswith("logical aupro – → 0.") for line in lines)
    assert "defined on one side only" in done.output
    assert lines[-1] == "4 records would be re-scored, 0 refused."


def changed_image(place: Path, _: Path) -> None:
    png(place / "data" / "own" / "a" / "train" / "good" / "0.png", np.zeros((48, 48, 3), np.uint8))


def changed_mask(place: Path, _: Path) -> None:
    png(place / "data" / "own" / "a" / "ground_truth" / "spot" / "0.png", np.full((48, 48), 255, np.uint8))


def category_gone(place: Path, _: Path) -> None:
    shutil.rmtree(place / "data" / "own" / "a")


def no_maps(_: Path, maps: Path) -> None:
    maps.unlink()


def cut_maps(_: Path, maps: Path) -> None:
    maps.write_bytes(maps.read_bytes()[:-100])


def flipped_maps(_: Path, maps: Path) -> None:
    whole = maps.read_bytes()
    maps.write_bytes(whole[:90_000] + bytes([whole[90_000] ^ 1]) + whole[90_001:])


def smaller_maps(_: Path, maps: Path) -> None:
    save_file({"maps": np.zeros((32, 64, 64), np.float32), "scores": np.zeros(32, np.float32)}, maps)


def fewer_maps(_: Path, maps: Path) -> None:
    save_file({"maps": np.zeros((15, 96, 96), np.float32), "scores": np.zeros(15, np.float32)}, maps)


def maps_that_are_not_finite(_: Path, maps: Path) -> None:
    save_file({"maps": np.full((32, 96, 96), np.nan, np.float32), "scores": np.zeros(32, np.float32)}, maps)


def no_record(_: Path, maps: Path) -> None:
    maps.with_name(maps.name.replace(".maps.safetensors", ".json")).write_text("{")


REFUSALS = {
    changed_image: (2, "files on disk are not those"),
    changed_mask: (2, "files on disk are not those"),
    category_gone: (2, "'a'"),
    no_maps: (1, "no maps were kept"),
    cut_maps: (1, "damaged"),
    flipped_maps: (1, "damaged"),
    smaller_maps: (1, "(32, 64, 64)"),
    fewer_maps: (1, "(15, 96, 96)"),
    maps_that_are_not_finite: (1, "image 0: the anomaly map holds NaN"),
    no_record: (1, "is no record"),
}


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: fault.__name__)
def test_what_does_not_fit_is_refused_and_the_rest_is_done(
    place: Path, rescore: Callable[..., Result], fault: Callable[[Path, Path], None]
) -> None:
    count, reason = REFUSALS[fault]
    first = paths(place)[0]
    fault(place, first.with_suffix(".maps.safetensors"))
    before = contents(place)
    done = rescore()
    assert done.exit_code == 1, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("refused")]
    assert len(lines) == count
    assert all(reason in line for line in lines), lines
    assert f"{4 - count} records re-scored, {count} refused." in done.output
    after = contents(place)
    assert set(before) == set(after)
    assert sorted(path for path in before if before[path] != after[path]) == paths(place)[count:]


def test_maps_in_the_first_format_serve_as_well(place: Path, rescore: Callable[..., Result]) -> None:
    for path in paths(place):
        maps, scores = load_maps(path.with_suffix(".maps.safetensors"))
        save_file({"maps": maps, "scores": scores}, path.with_suffix(".maps.safetensors"))
    assert "4 records re-scored" in rescore().output


def test_views_and_pictures_that_are_missing_are_made(place: Path, rescore: Callable[..., Result]) -> None:
    before = set(contents(place))
    views, images = ([p for p in before if p.name.endswith(f".{k}.safetensors")] for k in ("view", "images"))
    made = {**{p: load_view(p) for p in views}, **{p: load_pictures(p) for p in images}}
    assert (len(views), len(images)) == (4, 4)
    for path in made:
        path.unlink()
    assert "4 records re-scored" in rescore("--dry-run").output.replace("would be ", "")
    assert not any(path.exists() for path in made)
    assert "4 records re-scored" in rescore().output
    assert set(contents(place)) == before
    assert all(load_pictures(path) == made[path] is not None for path in images)
    for path in views:
        old, new = made[path], load_view(path)
        assert isinstance(old, View)
        assert new is not None
        assert np.array_equal(new.curve, old.curve)
        assert np.array_equal(new.scores, old.scores)


def test_failed_runs_and_unknown_datasets(place: Path, rescore: Callable[..., Result]) -> None:
    first, second, *_ = paths(place)
    spoil(first, outcome="failed", failure={"message": "planted"}, metrics={})
    spoil(second, spec=json.loads(second.read_text())["spec"] | {"dataset": "else"})
    done = rescore()
    assert done.exit_code == 1
    assert "2 records re-scored, 1 refused, 1 of failed runs left alone." in done.output
    assert "dataset 'else' has no built-in card: give its card with --cards" in done.output
    missing = rescore("--results", "nowhere")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "no results folder nowhere" in missing.stderr


def test_a_full_disk_stops_with_a_sentence_and_every_record_whole(
    place: Path, rescore: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(place)
    calls = []

    def full(_: int) -> None:
        calls.append(1)
        if len(calls) == 3:  # the probe, the first record, the second
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    done = rescore()
    assert (done.exit_code, "is full" in done.stderr) == (2, True), done.output
    after = contents(place)
    assert set(after) == set(before)
    assert [path for path in before if after[path] != before[path]] == [paths(place)[0]]
    assert [bool(record.rescored) for record in records(place).values()] == [True, False, False, False]


def test_killed_while_it_writes_it_loses_nothing(place: Path, rescore: Callable[..., Result]) -> None:
    before = contents(place)
    dying = (
        "import os; from harness.cli.main import main; real = os.fsync; seen = []\n"
        "def fsync(file):\n"
        "    seen.append(file)\n"
        "    os._exit(9) if len(seen) == 3 else real(file)\n"
        "os.fsync = fsync\n"
        "main(['rescore', '--cards', 'own.toml'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", dying], cwd=place, env=environment(place), capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr
    after = contents(place)
    assert [path for path in before if after[path] != before[path]] == [paths(place)[0]]
    # The lock of a process that is gone holds nobody up.
    assert {path.suffix for path in set(after) - set(before)} == {".tmp", ".claim"}
    assert [bool(record.rescored) for record in records(place).values()] == [True, False, False, False]
    assert rescore().exit_code == 0
    assert all(record.rescored for record in records(place).values())
    assert set(contents(place)) == set(before), "and what it left half-written is gone"
