"""`bench verify`, `bench merge`, `bench results`: records to be trusted, and folders that become one."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.results.maps import save_maps
from harness.results.store import read_record, record_path, write_record
from harness.spec.record import RunRecord, checksum
from tests.harness.places import files_in

MUSEUM = Path(__file__).parents[2] / "museum"


def bench(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def museum(name: str = "2026-first") -> RunRecord:
    record = read_record(MUSEUM / f"{name}.json")
    assert isinstance(record, RunRecord)
    return record


def seed(number: int, **changes: Any) -> RunRecord:
    """A record of the museum with another seed, and so with another key."""
    from harness.spec.run import run_key

    old = museum()
    spec = old.spec.model_copy(update={"seed": number})
    return old.model_copy(update={"spec": spec, "key": run_key(spec, old.identity)} | changes)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_in(folder)}


# Verify


def test_what_was_written_is_right_and_old_records_have_no_checksum(tmp_path: Path) -> None:
    for path in MUSEUM.glob("*.json"):
        record = read_record(path)
        assert isinstance(record, RunRecord)
        place = record_path(tmp_path, record.spec, record.key)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    done = bench("verify", "--results", tmp_path)
    assert (done.exit_code, ", 0 wrong" in done.output) == (0, True), done.output
    assert "without a checksum" in done.output
    again = tmp_path / "again"
    write_record(again, museum())
    assert bench("verify", "--results", again).output == "1 records, 0 wrong.\n"


def put(record: dict[str, Any], where: str, value: Any) -> None:
    *way, last = where.split(".")
    for part in way:
        record = record[part]
    record[last] = value


# A field, its new value, and whether the forger knows checksums; what is said.
FORGED: dict[str, tuple[str, Any, str]] = {
    "aupro": ("metrics.all.aupro", 1.2, "all aupro is 1.2, outside [0, 1]"),
    "negative": ("metrics.all.pixel_ap", -0.1, "all pixel_ap is -0.1, outside [0, 1]"),
    "auroc": ("metrics.all.image_auroc", 0.8863, "which 26 normal and 71 anomalous images cannot give"),
    "f1": ("metrics.all.image_f1max", 0.5, "below the 0.845238 of calling all images anomalous"),
    "seed": ("spec.seed", 7, "has not the key of its run"),
    "key": ("key", "0" * 16, "has not the key of its run"),
    "place": ("spec.category", "tubes", "lies elsewhere than its run belongs"),
    "fingerprint": ("fingerprint.resize", "opencv", "has not the fingerprint of its run"),
    "version": ("fingerprint.metrics_version", 99, "has metrics of version 99"),
    "speed": ("timings.images_per_second", 1e6, "images_per_second is 1e+06, not 97 test images / predict"),
    "time": ("timings.fit", -1.0, "timings: fit is -1"),
    "counts": ("counts.test", 98, "counts 98 test images, but 97 by kind"),
    "memory": ("peak_memory.host", -5, "peak memory: host is -5"),
    "epoch": ("selected_epoch", 1000, "selected epoch 1000, which it does not log"),
    "outcome": ("outcome", "failed", "is 'failed' without a failure"),
    "protocol": ("spec.protocol", "lax", "has the protocol 'lax', which there is not"),
    "finished": ("finished", "yesterday", "finished is no time"),
    "last": ("metrics_last", {}, "is of protocol 'strict' with metrics of the last epoch"),
    "dataset": ("categories", ["x"], "is of a category that its dataset has not"),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("sealed", [True, False], ids=["by somebody who knows checksums", "by hand"])
def test_a_record_that_was_changed_is_named_with_why(tmp_path: Path, case: str, sealed: bool) -> None:
    field, value, why = FORGED[case]
    path = write_record(tmp_path, museum())
    good = write_record(tmp_path, seed(1))
    content = json.loads(path.read_text())
    put(content, field, value)
    if sealed:
        content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))
    done = bench("verify", "--results", tmp_path)
    assert done.exit_code == 1
    line, count = done.output.splitlines()
    assert line.startswith(f"{path}: ")
    assert why in line
    assert ("was changed after it was written" in line) != sealed
    assert count == "2 records, 1 wrong."
    assert good.name not in done.output


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("images.normal", 11, "its images are not those of the run"),
        ("validation", 60, "its images are not those of the run"),
        ("thresholds.0.above.all", 99, "a threshold stops more images than there are"),
        ("thresholds.0.value", -9.0, "more images are above"),
    ],
)
def test_thresholds_that_cannot_be(tmp_path: Path, field: str, value: float, why: str) -> None:
    path = write_record(tmp_path, museum("2026-operating"))
    assert bench("verify", "--results", tmp_path).exit_code == 0
    content = json.loads(path.read_text())
    at: Any = content["operating"]
    *parts, last = field.split(".")
    for part in parts:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    done = bench("verify", "--results", tmp_path)
    assert done.exit_code == 1
    assert why in done.output


def test_identities_over_the_kinds(tmp_path: Path) -> None:
    record = museum("2026-native-spro")
    assert bench("verify", "--results", write_record(tmp_path, record).parents[3]).exit_code == 0
    pooled = record.metrics["all"] | {"image_auroc": record.metrics["all"]["image_auroc"] - 1 / 24}  # type: ignore[operator]
    mean = dict.fromkeys(record.metrics["kinds_mean"], 0.5)
    write_record(
        tmp_path, record.model_copy(update={"metrics": record.metrics | {"all": pooled, "kinds_mean": mean}})
    )
    said = bench("verify", "--results", tmp_path).output
    assert "the kinds together have" in said
    assert "not the mean over the kinds" in said


def test_under_paper_the_best_epoch_must_be_the_selected_one(tmp_path: Path) -> None:
    record = museum("2026-resumed-paper")
    write_record(tmp_path, record)
    assert bench("verify", "--results", tmp_path).exit_code == 0
    other = next(log.number for log in record.epochs if log.number != record.selected_epoch)
    write_record(tmp_path, record.model_copy(update={"selected_epoch": other}))
    assert "has the best test image AUROC" in bench("verify", "--results", tmp_path).output


def test_damaged_artefacts_and_files_that_are_no_records_are_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = write_record(tmp_path, museum())
    maps = np.zeros((97, 128, 128), np.float32)
    save_maps(path.with_suffix(".maps.safetensors"), maps, np.zeros(97, np.float32))
    assert bench("verify", "--results", tmp_path).exit_code == 0
    save_maps(path.with_suffix(".maps.safetensors"), maps[:9], np.zeros(9, np.float32))
    assert "its kept maps have the shape (9, 128, 128)" in bench("verify", "--results", tmp_path).output
    path.with_suffix(".maps.safetensors").write_bytes(b"no maps")
    assert "its kept maps are damaged" in bench("verify", "--results", tmp_path).output
    path.with_suffix(".maps.safetensors").unlink()
    weights = path.with_suffix(".weights.safetensors")
    save_file({"w": np.zeros(10**6, np.float32)}, weights)
    assert bench("verify", "--results", tmp_path).exit_code == 0
    peak = sum(museum().peak_memory.values())
    with weights.open("r+b") as file:
        file.seek(0)
    save_file({"w": np.zeros(peak // 4 + 20 * 10**6, np.float32)}, weights)
    assert "its memory peaked at" in bench("verify", "--results", tmp_path).output
    (path.parent / "0123.json").write_text("[" * 10**5)
    (path.parent / "0124.json").symlink_to("/dev/zero")
    os.mkfifo(path.parent / "0125.json")
    said = bench("verify", "--results", tmp_path).output
    assert all(
        name in said for name in ("0123.json: is no record", "0124.json: cannot be read", "0125.json: is no")
    )
    assert "4 records, 4 wrong" in said


# Merge


def test_the_union_has_every_run_once_with_what_lies_beside_it(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    one, two = write_record(a, seed(1)), write_record(b, seed(2))
    write_record(a, seed(3, finished="2026-01-01T00:00:00"))
    newer = write_record(b, seed(3, finished="2026-02-01T00:00:00"))
    one.with_suffix(".maps.safetensors").write_bytes(b"maps of 1")
    one.with_suffix(".view.safetensors").write_bytes(b"view of 1")
    two.with_suffix(".parts.safetensors").write_bytes(b"parts of 2")
    one.with_suffix(".checkpoint.safetensors").write_bytes(b"stays")
    (a / newer.relative_to(b)).with_suffix(".weights.safetensors").write_bytes(b"weights of 3")
    (two.parent.parent / "d-128-opencv.images.safetensors").write_bytes(b"pictures")
    done = bench("merge", a, b, "-o", c)
    assert done.exit_code == 0, done.output
    assert "3 records" in done.output
    assert "1 were there more than once" in done.output
    expected = {
        one.relative_to(a).as_posix(): one.read_bytes(),
        two.relative_to(b).as_posix(): two.read_bytes(),
        newer.relative_to(b).as_posix(): newer.read_bytes(),
        one.relative_to(a).with_suffix(".maps.safetensors").as_posix(): b"maps of 1",
        one.relative_to(a).with_suffix(".view.safetensors").as_posix(): b"view of 1",
        two.relative_to(b).with_suffix(".parts.safetensors").as_posix(): b"parts of 2",
        newer.relative_to(b).with_suffix(".weights.safetensors").as_posix(): b"weights of 3",
        "mpdd/metal_plate/d-128-opencv.images.safetensors": b"pictures",
    }
    assert files(c) == expected
    assert bench("merge", b, a, "-o", tmp_path / "d").exit_code == 0
    assert files(tmp_path / "d") == expected, "the order does not matter"
    assert "0 written" in bench("merge", a, b, "-o", c).output
    assert bench("merge", b, "-o", a).exit_code == 0
    assert {k: v for k, v in files(a).items() if "checkpoint" not in k} == expected, "into one of them"
    assert bench("verify", "--results", c).output.startswith(
        f"{c / one.relative_to(a)}: its kept maps are damaged"
    )


def test_one_run_with_two_scores_is_a_conflict_and_nothing_is_written(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first = write_record(a, seed(1))
    write_record(a, seed(2))
    scores = museum().metrics["all"] | {"image_auroc": 0.9}
    second = write_record(b, seed(1, metrics={"all": scores}))
    done = bench("merge", a, b, "-o", c)
    assert done.exit_code == 1
    assert f"{first} and {second} have different scores (all image_auroc: 0.886" in done.output
    assert "1 conflicts, nothing is written" in done.output
    assert not c.exists()


def test_scores_go_before_a_failure_and_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    good = write_record(a, seed(1, finished="2026-01-01"))
    failure = {"outcome": "failed", "failure": {"message": "x"}, "metrics": {}, "finished": "2026-02-01"}
    write_record(b, RunRecord.model_validate(seed(1).model_dump() | failure))
    torn = b / "mpdd" / "metal_plate" / "dfr" / f"{'1' * 16}.json"
    torn.write_text('{"key": ')
    moved = shutil.copy(good, b / "mpdd" / "metal_plate" / "dfr" / f"{'2' * 16}.json")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    good.with_suffix(".maps.safetensors").symlink_to(secret)
    done = bench("merge", a, b, "-o", c)
    assert done.exit_code == 1
    assert f"damaged   {torn}: is no record" in done.output
    assert f"damaged   {moved}: lies elsewhere than its run belongs" in done.output
    assert files(c) == {good.relative_to(a).as_posix(): good.read_bytes()}, "no link is followed"
    assert bench("merge", a, tmp_path / "nowhere", "-o", c).exit_code == 2


# Export, import, prune


def test_an_archive_comes_back_byte_for_byte_and_is_always_the_same(tmp_path: Path) -> None:
    results = tmp_path / "results"
    paths = [write_record(results, seed(number)) for number in range(4)]
    paths[0].with_suffix(".maps.safetensors").write_bytes(b"maps")
    (results / "mpdd" / "metal_plate" / "d-128-opencv.images.safetensors").write_bytes(b"pictures")
    paths[0].with_suffix(".weights.safetensors").symlink_to("/etc/passwd")
    whole, records = tmp_path / "whole.tar.gz", tmp_path / "records.tar.gz"
    assert bench("results", "export", whole, "--artefacts", "--results", results).exit_code == 0
    assert bench("results", "export", records, "--results", results).exit_code == 0
    done = bench("results", "import", whole, "--results", tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    paths[0].with_suffix(".weights.safetensors").unlink()
    assert files(tmp_path / "new" / "folder") == files(results)
    assert bench("results", "import", records, "--results", tmp_path / "few").exit_code == 0
    assert files(tmp_path / "few") == {p.relative_to(results).as_posix(): p.read_bytes() for p in paths}
    os.utime(paths[1], (1, 1))
    again = tmp_path / "again.tar.gz"
    assert (
        bench("results", "export", again, "--artefacts", "--results", tmp_path / "new" / "folder").exit_code
        == 0
    )
    assert again.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir() if ".tmp" in p.name or p.name.startswith("new.")) == []


def archive(path: Path, fill: Callable[[tarfile.TarFile], None]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        fill(tar)
    return path


def member(name: str, content: bytes = b"", **fields: Any) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return lambda tar: tar.addfile(info, io.BytesIO(content))


HOSTILE = {
    "out": (member("../out.json", b"x"), "leads out of the folder"),
    "absolute": (member("/out.json", b"x"), "absolute path"),
    "link": (member("results/a", type=tarfile.SYMTYPE, linkname="/etc"), "link that leads out"),
    "device": (member("results/null", type=tarfile.CHRTYPE), "a device"),
    "other": (member("elsewhere/x.json", b"{}"), "was not made by `bench results export`"),
    "many": (lambda tar: [member(f"results/{i}")(tar) for i in range(60_000)] and None, "more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, case: str) -> None:
    fill, why = HOSTILE[case]
    path = archive(tmp_path / "evil.tar.gz", fill)
    done = bench("results", "import", path, "--results", tmp_path / "results")
    assert done.exit_code == 2
    assert why in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["evil.tar.gz"]


def test_a_bomb_and_a_torn_archive(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        info = tarfile.TarInfo("results/a/b/c/d.json")
        info.size = 10**9
        file.write(info.tobuf())
        for _ in range(160):
            file.write(bytes(1 << 20))
    assert "is refused" in bench("results", "import", bomb, "--results", tmp_path / "r").stderr
    write_record(tmp_path / "whole", museum())
    torn = tmp_path / "torn.tar.gz"
    assert bench("results", "export", torn, "--results", tmp_path / "whole").exit_code == 0
    torn.write_bytes(torn.read_bytes()[:2000])
    assert "is damaged" in bench("results", "import", torn, "--results", tmp_path / "r").stderr
    assert not (tmp_path / "r").exists()
    assert "There is no archive" in bench("results", "import", tmp_path / "no", "--results", tmp_path).stderr
    assert bench("results", "export", tmp_path / "x.tar.gz", "--results", tmp_path).exit_code == 2
    assert not (tmp_path / "x.tar.gz").exists()


def test_prune_lists_first_and_removes_what_no_table_uses(tmp_path: Path) -> None:
    old = seed(1, finished="2026-01-01")
    from harness.spec.run import run_key

    identity = old.identity.model_copy(update={"method_version": 2})
    new = old.model_copy(
        update={"identity": identity, "key": run_key(old.spec, identity), "finished": "2026-02-01"}
    )
    failed = RunRecord.model_validate(
        seed(2).model_dump() | {"outcome": "failed", "failure": {"message": "x"}, "metrics": {}}
    )
    paths = {
        name: write_record(tmp_path, record) for name, record in (("old", old), ("new", new), ("f", failed))
    }
    for name in ("old", "new"):
        paths[name].with_suffix(".maps.safetensors").write_bytes(b"maps")
    paths["f"].with_suffix(".checkpoint.safetensors").write_bytes(b"c")
    orphan = paths["f"].with_name("0" * 16 + ".weights.safetensors")
    orphan.write_bytes(b"w")
    before = files(tmp_path)
    listed = bench("results", "prune", "--results", tmp_path)
    assert files(tmp_path) == before
    assert "3 files" in listed.output
    assert "add --yes" in listed.output
    assert bench("results", "prune", "--results", tmp_path, "--yes").exit_code == 0
    gone = {
        p.relative_to(tmp_path).as_posix()
        for p in (paths["old"], paths["old"].with_suffix(".maps.safetensors"), orphan)
    }
    assert set(before) - set(files(tmp_path)) == gone
    bench("results", "prune", "--results", tmp_path, "--yes", "--what", "failed,checkpoints,maps")
    assert list(files(tmp_path)) == [paths["new"].relative_to(tmp_path).as_posix()]
    assert "Did you mean 'maps'" in bench("results", "prune", "--what", "map", "--results", tmp_path).stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 400, "9" * 5000])
@pytest.mark.parametrize("field", ["metrics.all.image_auroc", "counts.normal", "timings.predict"])
def test_numbers_that_no_run_gives(tmp_path: Path, field: str, value: str) -> None:
    path = write_record(tmp_path, museum())
    content = json.loads(path.read_text())
    put(content, field, "HERE")
    path.write_text(json.dumps(content).replace('"HERE"', value))
    done = bench("verify", "--results", tmp_path)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "1 records, 1 wrong."


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("results", "import", LONG),
        ("report", "--results", LONG),
        ("verify", "--results", LONG),
        ("merge", LONG, "-o", "union"),
        ("check", "--baseline", LONG),
        ("predict", LONG, "photos"),
        ("run", "--datasets", f"{LONG}.toml"),
        ("run", "--methods", f"{LONG}.py:Mine"),
        ("rescore", "--results", LONG),
    ],
)
def test_a_path_that_no_system_takes_is_one_sentence(words: tuple[str, ...]) -> None:
    done = bench(*words)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("Error: "), done.stderr
    assert "Traceback" not in done.output
