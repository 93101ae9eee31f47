"""Every image that runs need, decoded into the cache before the first of them."""

from __future__ import annotations

import shutil

from rich.console import Console
from rich.progress import track

from harness.common.errors import UserError
from harness.data.card import dataset_root, load_card
from harness.data.defects import read_defects
from harness.data.image_cache import load_images, load_masks
from harness.data.samples import read_category
from harness.metrics.native_size import Native
from harness.planning.plan import Plan
from harness.planning.task import RunTask
from harness.spec.protocols import PROTOCOLS

_SPARE = 200 * 1024**2


def decode(plan: Plan, console: Console, quiet: bool) -> None:
    """Decodes every image that the runs need into the cache, so that a broken one is found before any run.

    Raises:
        UserError: an image or mask cannot be read, or the disk is too full for the cache or the results.
    """
    needed: dict[tuple[str | int, ...], RunTask] = {}
    for task in plan.todo:
        spec = task.spec
        protocol = PROTOCOLS[spec.protocol]
        view = (protocol.resize, protocol.crop)
        needed[(task.card, spec.category, spec.image_size, *view, spec.evaluate)] = task
    for folder in {task.results for task in plan.todo}:
        free = shutil.disk_usage(folder).free
        if free < _SPARE:
            raise UserError(
                f"Only {free / 1e6:.0f} MB are free where {folder} lies: free space, then run again."
            )
    hide = quiet or not console.is_terminal
    for task in track(
        list(needed.values()), "decoding images", console=console, disable=hide, transient=True
    ):
        decode_one(task)


def decode_one(task: RunTask) -> None:
    """Decodes the images and masks of one run."""
    size, protocol = task.spec.image_size, PROTOCOLS[task.spec.protocol]
    card, category = load_card(task.card), task.spec.category
    data = read_category(card, category, task.data_root, task.cache)
    for part in (data.train, data.validation, data.test):
        load_images([sample.image for sample in part], size, protocol.resize, task.cache, protocol.crop)
    if task.spec.evaluate == "native":
        Native(
            data.test, read_defects(card, category, dataset_root(card, task.data_root, task.cache))
        ).check()
    else:
        load_masks([sample.masks for sample in data.test], size, task.cache, protocol.crop)
