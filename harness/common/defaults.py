"""Values that several rooms must agree on."""

from __future__ import annotations

# Seconds between two checkpoints of a training at least: what a crash costs at most, beside one epoch.
CHECKPOINT_EVERY = 120.0
# Of a run's own time, the share that measuring its efficiency may take.
MEASURING_SHARE = 0.015
# Hyper-parameters that say how long a training is.
TRAINING_LENGTHS = (
    "epochs",
    "steps",
    "max_epochs",
    "max_steps",
    "train_steps",
    "sub_epochs",
    "distill_steps",
)
# Files that are images, by the ends of their names.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
