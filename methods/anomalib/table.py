"""The documentation's table of anomalib's image models: ``python -m methods.anomalib.table FILE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from methods.anomalib.family import NOTES, PASSES, RECIPES, models
from methods.anomalib.signatures import image_models

# The parameters with which tests run a model through the contract test, on 64 px and with random weights.
TESTED: Mapping[str, str] = {
    "Dfkde": "backbone=tf_efficientnet_lite0,layers=[blocks.4],n_pca_components=4",
    "Dfm": "backbone=resnet18,layer=layer2,pooling_kernel_size=2",
    "Fre": "backbone=resnet18,layer=layer2,input_dim=2048",
    "Ganomaly": "",
    "MHPatchcore": "backbone=resnet18",
    "Patchflow": "backbone=resnet18",
    "Stfpm": "",
    "Uflow": "backbone=resnet18",
}

_HEAD = """# anomalib's image models

Every image model of anomalib is a method by name, e.g. `anomalib:Stfpm[layers=[layer1,layer2]]`: its
constructor's parameters, its own optimiser, schedule and training step in a bare loop, on the harness's
images, seeds and weights. There is no early stopping, no validation on test images and no
normalisation of scores. Images are normalised as the model's pre-processor does, resized by the harness, and
not cropped.

Made by `nox -s models`. *Length*: of training, where none is set (`epochs`, `steps`). *Tested*: run through
the [contract test](contract.md) with these parameters.

| model | runs here | length | tested | note |
|---|---|---|---|---|
"""


def markdown() -> str:
    """Returns the page."""
    rows = []
    for name, source in sorted(image_models().items(), key=lambda item: item[0].lower()):
        reason = models()[name]
        recipe = ", ".join(_length(*item) for item in RECIPES.get(name, {}).items())
        recipe = f"{PASSES[name]} × the images, fixed" if name in PASSES else recipe
        tested = (f"`{TESTED[name]}`" if TESTED[name] else "yes") if name in TESTED else ""
        title = f"[{source.about}]({source.url})" if source.url else source.about
        runs = f"no: it {reason}" if reason else "yes"
        length = "" if reason else recipe or "must be set"
        rows.append(f"| `{name}`: {title} | {runs} | {length} | {tested} | {NOTES.get(name, '')} |")
    return _HEAD + "\n".join(rows) + "\n"


def _length(unit: str, number: int) -> str:
    return f"{number} {unit if number > 1 else unit.removesuffix('s')}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
