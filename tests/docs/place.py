"""A home as empty as a newcomer's, but for tiny datasets in the official layouts, and `bench` on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from docs.site.pages import ROOT

# What makes a run take seconds; the settings of ULSAD, whose runs are kept, threshold and export alike.
TINY = "--image-size 64 --backbone tf_efficientnet_lite0 --seeds 0 --limit-train 4 --measure 0 --device cpu"
# `paper` trains on full batches alone, of which four images make one.
ULSAD = f"{TINY} --set ulsad.epochs=1 --set ulsad.channels=16 --set ulsad.batch_size=4"
_BENCH = """#!{python}
import sys
sys.path.insert(0, {root!r})
sys.argv[0] = "bench"
if __name__ == "__main__":
    from harness.cli.main import main
    main(prog_name="bench")
"""


def shell(command: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in bash as a reader would, in ``folder``, with nothing but ``home``."""
    program = home / "bin" / "bench"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(_BENCH.format(python=sys.executable, root=str(ROOT)))
        program.chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BENCH_CACHE": str(home / "cache"),
        "BENCH_DATA": str(home / "data"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        "COLUMNS": "200",
    }
    words = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def make_data(root: Path) -> None:
    """Writes one small category of each dataset that the documentation names."""
    for dataset, category, normal in (("mvtec", "screw", 3), ("mpdd", "metal_plate", 30)):
        folder = root / dataset / category
        _category(folder, ("test/scratch",), "ground_truth/scratch/{}_mask.png", normal)
    _category(root / "widgets/bolt", ("test/scratch",), "ground_truth/scratch/{}.png")
    loco = root / "mvtec_loco/breakfast_box"
    for kind in ("structural_anomalies", "logical_anomalies"):
        _category(loco, (f"test/{kind}",), f"ground_truth/{kind}/{{}}/000.png")
    _images(loco / "validation/good", 3)
    defect = {"defect_name": "d", "pixel_value": 255, "saturation_threshold": 1, "relative_saturation": True}
    (loco / "defects_config.json").write_text(json.dumps([defect]))
    _visa(root / "visa")


def _images(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(folder.as_posix()))
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)).save(path)
    return paths


def _category(folder: Path, anomalous: tuple[str, ...], mask: str, normal: int = 3) -> None:
    _images(folder / "train/good", 6)
    _images(folder / "test/good", normal)
    for part in anomalous:
        for path in _images(folder / part, 3):
            _mask(folder / mask.format(path.stem))


def _mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[10:30, 10:30] = 255
    Image.fromarray(drawn).save(path)


def _visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for split, label, count in (("train", "normal", 6), ("test", "normal", 3), ("test", "anomaly", 3)):
        for path in _images(root / "candle/Data/Images" / f"{split}-{label}", count):
            mask = root / "candle/Data/Masks" / f"{path.stem}.png"
            if label == "anomaly":
                _mask(mask)
            found = mask.relative_to(root).as_posix() if label == "anomaly" else ""
            rows.append(f"candle,{split},{label},{path.relative_to(root).as_posix()},{found}")
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(rows) + "\n")
