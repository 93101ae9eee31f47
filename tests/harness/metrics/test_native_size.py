"""Evaluation at the masks' own size, from the plan to the record, on a small dataset laid out as LOCO."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.common.errors import UserError
from harness.common.places import Places
from harness.data.card import load_card
from harness.data.decoding import image_size, read_image
from harness.data.defects import read_defects
from harness.data.samples import Sample
from harness.execution.decode import decode_one
from harness.execution.rescore import rescore
from harness.execution.run import execute
from harness.metrics.exact import pixel_metrics
from harness.metrics.native_size import Native
from harness.metrics.spro import LIMITS, Annotated, Annotation, split_spro
from harness.planning.plan import Options, Plan, make_plan
from harness.results.maps import load_maps
from harness.results.store import read_record, record_path, write_record
from harness.spec.record import RunRecord
from harness.spec.suite import Suite
from reports.write import write
from tests.harness import places

METHOD = '''
"""The brightness of an image."""
from harness import Citation, Epoch, Hyperparameters, Method, Prediction


class Mine(Method):
    version = 1
    citation = Citation(title="Mine", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        pass

    def fit(self, data, on_epoch):
        on_epoch(Epoch(1, 1))

    def predict(self, images):
        maps = images.float().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
'''

CARD = f"""{places.CARD}masks = ["{{category}}/ground_truth/{{defect}}/{{stem}}/*"]
defects = "{{category}}/defects_config.json"
kinds = {{ structural_anomalies = "structural", logical_anomalies = "logical" }}
"""

DEFECTS: list[dict[str, Any]] = [
    {
        "defect_name": "missing",
        "pixel_value": 255,
        "saturation_threshold": 40,
        "relative_saturation": False,
    },
    {
        "defect_name": "scratch",
        "pixel_value": 254,
        "saturation_threshold": 0.7,
        "relative_saturation": True,
    },
]
# Of each anomalous image its size, and the value, corner and side of each of its masks.
TEST = {
    ("structural_anomalies", 0): ((40, 56), [(254, 5, 8, 9)]),
    ("structural_anomalies", 1): ((48, 36), [(254, 2, 2, 6), (254, 20, 20, 10)]),
    ("logical_anomalies", 0): ((40, 56), [(255, 10, 30, 12), (254, 15, 35, 12)]),
    ("logical_anomalies", 1): ((24, 28), [(255, 1, 3, 5)]),
}


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "own" / "a"
    for part, count in (("train", 4), ("test", 3)):
        for i in range(count):
            save(folder / part / "good" / f"{i}.png", rng.integers(60, 130, (40 + 4 * i, 56, 3)))
    for (kind, number), (size, masks) in TEST.items():
        pixels = rng.integers(60, 130, (*size, 3))
        for index, (value, y, x, side) in enumerate(masks):
            mask = np.zeros(size)
            mask[y : y + side, x : x + side] = value
            pixels[y : y + side // 2, x : x + side] += 40
            save(folder / "ground_truth" / kind / str(number) / f"{index}.png", mask)
        save(folder / "test" / kind / f"{number}.png", pixels)
    (folder / "defects_config.json").write_text(json.dumps(DEFECTS))
    (tmp_path / "own.toml").write_text(CARD)
    (tmp_path / "mine.py").write_text(METHOD)
    return tmp_path


def planned(place: Path, **change: Any) -> Plan:
    fields: dict[str, Any] = {
        "title": "t",
        "methods": [f"{place / 'mine.py'}:Mine"],
        "datasets": [str(place / "own.toml")],
        "image_size": 32,
        "evaluate": "native",
    }
    keep = frozenset({"maps"})
    options = Options(("cpu",), Places(place / "cache", place / "data", place / "results"), keep=keep)
    return make_plan(Suite(**(fields | change)), options)


def run(plan: Plan) -> RunRecord:
    (task,) = plan.tasks
    decode_one(task)
    record = execute(task, lambda _: None)
    assert record.outcome == "ok", record.failure
    return record


def directly(place: Path, record: RunRecord) -> list[Annotated]:
    """The upsampled maps with what the masks' files say, in the order of the test images."""
    kept = record_path(place / "results", record.spec, record.key).with_suffix(".maps.safetensors")
    maps = iter(load_maps(kept)[0])
    images = []
    for kind in ("good", "logical_anomalies", "structural_anomalies"):
        for number in range(3 if kind == "good" else 2):
            size, given = ((40 + 4 * number, 56), []) if kind == "good" else TEST[kind, number]
            annotations = []
            for value, y, x, side in given:
                mask = np.zeros(size, bool)
                mask[y : y + side, x : x + side] = True
                area = int(0.7 * side * side) if value == 254 else min(40, side * side)
                annotations.append(Annotation(mask, area))
            upsampled = cv2.resize(next(maps), size[::-1], interpolation=cv2.INTER_LINEAR)
            name = "normal" if kind == "good" else kind.removesuffix("_anomalies")
            images.append(Annotated(np.asarray(upsampled), name, annotations))
    return images


def united(image: Annotated) -> Any:
    return np.any([np.zeros(image.map.shape, bool), *(a.mask for a in image.annotations)], axis=0)


def test_a_run_has_the_metrics_of_native_size(place: Path) -> None:
    record = run(planned(place))
    images = directly(place, record)
    assert list(record.metrics) == ["all", "logical", "structural", "kinds_mean"]
    for split in ("all", "logical", "structural"):
        chosen = [i for i in images if split == "all" or i.kind in ("normal", split)]
        found = record.metrics[split]
        truth = np.concatenate([united(i).ravel() for i in chosen])
        scores = np.concatenate([i.map.ravel() for i in chosen])
        assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
        assert found["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
        expected = pixel_metrics([i.map for i in chosen], [united(i) for i in chosen])
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
        assert 0 < expected["aupro"] < 1
    spro = split_spro(images, ["structural", "logical"])
    names = [f"spro_{limit:g}" for limit in LIMITS]
    official = record.metrics["kinds_mean"]
    assert {n: official[n] for n in names} == pytest.approx(spro["mean"], abs=1e-12)
    for split in ("all", "logical", "structural"):
        chosen = [i for i in images if split == "all" or i.kind in ("normal", split)]
        expected = roc_auc_score([i.kind != "normal" for i in chosen], [i.map.max() for i in chosen])
        assert record.metrics[split]["map_max_auroc"] == pytest.approx(expected, abs=1e-12)
    kinds = [record.metrics[split]["map_max_auroc"] or 0.0 for split in ("logical", "structural")]
    assert official["map_max_auroc"] == pytest.approx(sum(kinds) / 2, abs=1e-12)
    for split in ("structural", "logical"):
        assert {n: record.metrics[split][n] for n in names} == pytest.approx(spro[split], abs=1e-12)
    assert 0 < spro["mean"]["spro_0.05"] < 1
    assert spro["structural"] != spro["logical"]
    assert not set(names) & set(record.metrics["all"])


def test_native_and_input_are_kept_and_ranked_apart(place: Path) -> None:
    native, usual = run(planned(place)), run(planned(place, evaluate="input"))
    assert native.key != usual.key
    assert native.fingerprint.evaluation_resolution == "native"
    assert usual.fingerprint.evaluation_resolution == "32x32"
    assert native.fingerprint.short() != usual.fingerprint.short()
    assert native.identity.data == usual.identity.data
    for name, value in usual.metrics["all"].items():
        assert (native.metrics["all"][name] == value) == name.startswith("image_"), name
    assert not [n for values in usual.metrics.values() for n in values if n.startswith("spro")]
    for record in (native, usual):
        write_record(place / "results", record)
    write(place / "results", place / "report")
    rows = (place / "report" / "leaderboard.csv").read_text().splitlines()
    spro = [row for row in rows if "spro_0.05" in row]
    assert all(native.fingerprint.short() in row for row in spro)
    assert {row.split(",")[2] for row in spro} == {"kinds_mean", "logical", "structural"}
    assert not [
        row for row in rows if ",kinds_mean," in row and ",spro_" not in row and ",map_max_auroc," not in row
    ]
    page = (place / "report" / "index.html").read_text()
    assert page.count('<section class="ranking" id="own-') == 2
    assert "Mean over the kinds of anomalies" in page
    assert ">sPRO (FPR ≤ 0.05)</th>" in page
    tables = {p.name: p.read_text() for p in (place / "report" / "tables").glob("own-*.tex")}
    assert len([t for t in tables.values() if r"sPRO (FPR $\leq$ 0.05)" in t]) == 1
    usual_page = page.partition(f'<section class="ranking" id="own-{usual.fingerprint.short()}')[2].partition(
        "</section>"
    )[0]
    assert "sPRO" not in usual_page


def test_kept_maps_give_the_metrics_of_native_size_again(place: Path) -> None:
    record = run(planned(place))
    cleared = record.model_copy(update={"metrics": {}})
    path = write_record(place / "results", cleared)
    places = Places(place / "cache", place / "data", place / "results")
    (again,) = rescore(places, [str(place / "own.toml")], True)
    assert again.refused == ""
    found = read_record(path)
    assert isinstance(found, RunRecord)
    assert list(found.metrics) == list(record.metrics)
    for split, values in record.metrics.items():
        assert found.metrics[split] == pytest.approx(values, abs=1e-4)
    config = place / "data" / "own" / "a" / "defects_config.json"
    config.write_text(json.dumps([DEFECTS[0] | {"saturation_threshold": 3}, DEFECTS[1]]))
    (refused,) = rescore(places, [str(place / "own.toml")], True)
    assert "table of defects" in refused.refused


def test_another_table_of_defects_is_another_run_and_leaves_the_old_one_out(place: Path) -> None:
    old = run(planned(place))
    usual = run(planned(place, evaluate="input"))
    path = place / "data" / "own" / "a" / "defects_config.json"
    path.write_text(json.dumps([DEFECTS[0] | {"saturation_threshold": 3}, DEFECTS[1]]))
    new = run(planned(place))
    assert new.key != old.key
    assert planned(place, evaluate="input").tasks[0].key == usual.key
    assert new.metrics["logical"]["spro_0.05"] != old.metrics["logical"]["spro_0.05"]
    for record in (old, usual, new):
        write_record(place / "results", record)
    write(place / "results", place / "report")
    table = (place / "report" / "leaderboard.csv").read_text()
    assert table.count(",mean,kinds_mean,") == len(LIMITS) + 1
    assert usual.fingerprint.short() in table


def test_a_dataset_without_a_table_has_no_spro(place: Path) -> None:
    card = place / "own.toml"
    card.write_text(card.read_text().replace("defects =", "# defects ="))
    record = run(planned(place))
    assert list(record.metrics) == ["all", "logical", "structural"]
    assert not [n for values in record.metrics.values() for n in values if n.startswith("spro")]


def test_the_official_mean_needs_every_kind(place: Path) -> None:
    for path in (place / "data" / "own" / "a" / "test" / "logical_anomalies").iterdir():
        path.unlink()
    record = run(planned(place))
    assert list(record.metrics) == ["all", "structural", "kinds_mean"]
    assert set(record.metrics["kinds_mean"].values()) == {None}
    assert record.metrics["structural"]["spro_0.05"] is not None


def without(field: str) -> Callable[[], str]:
    return lambda: json.dumps([DEFECTS[0], {k: v for k, v in DEFECTS[1].items() if k != field}])


def changed(**change: Any) -> Callable[[], str]:
    return lambda: json.dumps([DEFECTS[0], DEFECTS[1] | change])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda: None, "cannot be read .* field 'layout.defects' of card 'own'"),
        (lambda: "{", "Invalid JSON"),
        (lambda: "{}", "valid (list|array)"),
        (lambda: "[]", "lists no defect"),
        (without("pixel_value"), r"field '1.pixel_value': Field required"),
        (without("saturation_threshold"), r"field '1.saturation_threshold': Field required"),
        (without("relative_saturation"), r"field '1.relative_saturation': Field required"),
        (changed(pixel_value=0), r"field '1.pixel_value'"),
        (changed(pixel_value="254"), r"field '1.pixel_value'"),
        (changed(pixel_value=255), r"field '1.pixel_value': 255 is listed twice"),
        (changed(saturation_threshold=1.5), r"field '1.saturation_threshold': a share of the area"),
        (changed(saturation_threshold=0), r"field '1.saturation_threshold'"),
        (changed(relative_saturation=1), r"field '1.relative_saturation'"),
    ],
)
def test_a_bad_table_is_found_by_the_plan(
    place: Path, content: Callable[[], str | None], sentence: str
) -> None:
    path = place / "data" / "own" / "a" / "defects_config.json"
    path.unlink()
    if (text := content()) is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        planned(place)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert planned(place, evaluate="input").tasks, "not looked at where it is not used"


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.zeros((40, 56)), "marks nothing"),
        (np.full((40, 56), 7), "pixel value 7, which is no 'pixel_value' in .*defects_config.json"),
        (np.arange(40 * 56).reshape(40, 56) % 2 + 254, "pixel values 254 and 255"),
        (np.full((40, 56, 3), 254), "one channel"),
        (np.full((10, 10), 254), "another size than 0.png"),
    ],
)
def test_a_bad_mask_is_found_before_the_first_run(place: Path, pixels: Any, sentence: str) -> None:
    path = place / "data" / "own" / "a" / "ground_truth" / "logical_anomalies" / "0" / "1.png"
    save(path, pixels)
    with pytest.raises(UserError, match=sentence) as caught:
        decode_one(planned(place).tasks[0])
    assert str(path) in str(caught.value)


def test_maps_are_resized_as_by_torch_one_at_a_time(tmp_path: Path) -> None:
    save(tmp_path / "0.png", np.zeros((90, 130)))
    save(tmp_path / "1.png", np.zeros((20, 17)))
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 32, 32)).astype(np.float32)
    native = Native([Sample(tmp_path / f"{i}.png") for i in range(2)])
    found = native.maps(maps)
    for index, size in enumerate(((90, 130), (20, 17))):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(maps[index, None, None]), size, mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(found[index], expected[0, 0].numpy(), atol=1e-5)
        assert native.masks[index].shape == size
    assert len(list(found)) == 2
    maps[1, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 1: the anomaly map holds NaN"):
        native.metrics(np.zeros(2, np.float32), maps, [], [])


def test_the_size_of_an_image_is_the_one_it_is_read_with(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.jpg"
        Image.new("L", (30, 20)).save(path, exif=exif)
        assert image_size(path) == read_image(path).size[::-1]


def test_the_card_of_loco_names_its_table(tmp_path: Path) -> None:
    (tmp_path / "pushpins").mkdir()
    path = tmp_path / "pushpins" / "defects_config.json"
    path.write_text(json.dumps(DEFECTS))
    table = read_defects(load_card("mvtec_loco"), "pushpins", tmp_path)
    assert table is not None
    assert (table.path, set(table.defects)) == (path, {254, 255})
    assert read_defects(load_card("mvtec"), "screw", tmp_path) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("kinds = {", "# {"), ("defects_config", "{stem}"), ('"logical"', '"kinds_mean"')],
)
def test_cards_that_make_no_sense_are_refused(place: Path, old: str, new: str) -> None:
    card = place / "own.toml"
    card.write_text(card.read_text().replace(old, new))
    with pytest.raises(UserError, match="field 'layout'"):
        load_card(card)
