"""The documentation's table of anomalib's image models: ``python -m methods.anomalib.table FILE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from methods.anomalib.family import NOTES, PASSES, RECIPES, models
from methods.anomalib.measured import Measured, read
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

## Weights

A run asks no hub. `bench prepare` fetches what a model needs, checks it, and each record holds its checksum:

- networks of timm by name, as for every other method ([data](data.md)); DINOv2 and DINOv3 are timm's too.
  Weights of one's own: `anomalib:Stfpm[backbone=resnet18@file:path/to/weights.pth]`;
- networks of torchvision (Cfa, Csflow, UniNet) as the asset `torchvision-<network>`. The name of such a file
  holds the first eight digits of its SHA-256 sum, which is all that is published;
- DSR's autoencoder, and DRAEM's and GLASS's textures, as assets.

A default layer such as `layer2` stands for the layer of the same stride where another backbone is chosen:
`backbone=tf_efficientnet_lite0` makes `blocks.2` of it. Records made before version 2 are of random weights
only; with pretrained ones every such run failed.

## What was measured

Made by `nox -s models`. *Measured*: run from end to end on the demo's texture with these parameters, few
images and a short training, by `nox -s every-model`; real weights are
EfficientNet-Lite0's of ImageNet. That shows that a model runs with the weights it is given, not how well it
does. *Length*: of training, where none is set (`epochs`, `steps`). *Contract*: run through the
[contract test](contract.md) with these parameters and random weights.

| model | runs here | measured with | length | contract | note |
|---|---|---|---|---|---|
"""


def markdown() -> str:
    """Returns the page."""
    rows, measured = [], read()
    for name, source in sorted(image_models().items(), key=lambda item: item[0].lower()):
        reason = models()[name]
        recipe = ", ".join(_length(*item) for item in RECIPES.get(name, {}).items())
        recipe = f"{PASSES[name]} × the images, fixed" if name in PASSES else recipe
        tested = (f"`{TESTED[name]}`" if TESTED[name] else "yes") if name in TESTED else ""
        title = f"[{source.about}]({source.url})" if source.url else source.about
        found = measured.get(name)
        runs = f"no: it {reason}" if reason else f"yes, {found.words() if found else 'not measured'}"
        length = "" if reason else recipe or "must be set"
        cells = (f"`{name}`: {title}", runs, _run(found), length, tested, NOTES.get(name, ""))
        rows.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n".join(rows) + "\n"


def _run(found: Measured | None) -> str:
    if found is None:
        return ""
    return f"{found.size} px, " + (f"`{found.params}`" if found.params else "its defaults")


def _length(unit: str, number: int) -> str:
    return f"{number} {unit if number > 1 else unit.removesuffix('s')}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
