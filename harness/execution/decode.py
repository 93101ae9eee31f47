"""Every image that runs need, decoded into the cache before the first of them."""

from __future__ import annotations

import shutil

from rich.console import Console
from rich.progress import track

from harness.common.errors import UserError
from harness.data.card import load_card
from harness.data.category import open_category
from harness.metrics.native_size import Native
from harness.planning.plan import Plan
from harness.planning.task import RunTask

_SPARE = 200 * 1024**2


def decode(plan: Plan, console: Console, quiet: bool) -> None:
    """Decodes every image that the runs need into the cache, so that a broken one is found before any run.

    Raises:
        UserError: an image or mask cannot be read, or the disk is too full for the cache or the results.
    """
    needed: dict[tuple[object, ...], RunTask] = {}
    for task in plan.todo:
        spec = task.spec
        needed[(task.card, spec.category, spec.fit, spec.evaluate)] = task
    for folder in {task.places.results for task in plan.todo}:
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
    category = open_category(load_card(task.card), task.spec.category, task.places)
    category.decoded(task.spec.fit)
    if task.spec.evaluate == "native":
        Native(category.samples.test, category.defects).check()
    else:
        category.masks(task.spec.fit)
