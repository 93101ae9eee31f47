"""The steps of the contract test, each one run of a method or two.

``python -m harness.checks.contract.steps JOB.json`` is started by :mod:`harness.checks.contract.checks` with
a fresh working directory, home and temporary folder.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.checks.contract.data import PoisonedImages, synthetic
from harness.checks.contract.state import process_state
from harness.checks.contract.worker import (
    TEST,
    TRAIN,
    VALIDATION,
    Job,
    NotRunError,
    Worker,
    difference,
    own_sentence,
    say_all,
)
from harness.data.image_cache import load_images
from harness.execution.devices import GeneratorState
from harness.method import Epoch, Images, Method, Prediction
from harness.spec.protocols import ImageFit

# What CUDA's libraries keep for themselves once they were used.
GPU_REST = 64 * 1024**2


def step_fit(worker: Worker) -> None:
    """Fit and predict once: shapes, finite values, epochs, test data, batches, order."""
    job, size = worker.job, worker.job.image_size
    epochs: list[Epoch] = []
    method = worker.build()
    poisoned = PoisonedImages(synthetic(TEST, size, 2, defects=True))
    with poisoned.armed():
        worker.fit(method, synthetic(TRAIN, size, 0), synthetic(VALIDATION, size, 1), on_epoch=epochs.append)
    worker.say("test data", poisoned.said() or worker.watch.opened_data())
    worker.say("epochs", _epochs_breach(epochs))
    images = worker.test_images()
    before = images.clone()
    with torch.no_grad():
        raw = method.predict(images)
    for breach in _shape_breaches(raw, TEST, size) or [""]:
        worker.say("shapes and types", breach)
    if not torch.equal(images, before):
        worker.say("shapes and types", "predict changed the images that it was given.")
    found = Prediction(raw.score.detach().float().cpu(), raw.map.detach().float().cpu())
    for part in ("score", "map"):
        tensor = getattr(found, part)
        wrong = int((~torch.isfinite(tensor)).sum())
        worker.say("finite", f"{wrong} of {tensor.numel()} values of {part} are not finite." if wrong else "")
    if _shape_breaches(raw, TEST, size):
        return
    worker.say("runs")
    save_file(
        {"score": found.score.contiguous(), "map": found.map.contiguous()}, job.folder / "scores.safetensors"
    )
    _independence(worker, method, images, found)
    _save_state(worker, method)


def _epochs_breach(epochs: list[Epoch]) -> str:
    if not epochs:
        return "fit never called on_epoch; call it at the end of every epoch, or once."
    numbers, of = [epoch.number for epoch in epochs], {epoch.of for epoch in epochs}
    if numbers != list(range(1, len(epochs) + 1)) or of != {len(epochs)}:
        return f"on_epoch was told of epochs {numbers} of {sorted(of)}; it must count from 1 to their number."
    wrong = [
        f"{name} = {loss}"
        for e in epochs
        for name, loss in e.losses.items()
        if not math.isfinite(float(loss))
    ]
    return f"on_epoch was told of a loss that is not finite: {wrong[0]}." if wrong else ""


def _shape_breaches(found: Prediction, count: int, size: int) -> list[str]:
    breaches = []
    for part, shape in {"score": (count,), "map": (count, size, size)}.items():
        tensor: object = getattr(found, part)
        if not isinstance(tensor, Tensor):
            breaches.append(f"predict gave a {part} that is a {type(tensor).__name__}, not a tensor.")
            continue
        if tuple(tensor.shape) != shape:
            breaches.append(f"predict gave a {part} of shape {tuple(tensor.shape)}, not {shape}.")
        if tensor.dtype != torch.float32:
            breaches.append(f"predict gave a {part} of {tensor.dtype}, not torch.float32.")
    return breaches


def _independence(worker: Worker, method: Method, images: Tensor, found: Prediction) -> None:
    declared = type(method).depends_on_batch
    singly = [worker.predict(method, images[i : i + 1]) for i in range(len(images))]
    alone = Prediction(torch.cat([p.score for p in singly]), torch.cat([p.map for p in singly]))
    backwards = worker.predict(method, images.flip(0))
    turned = Prediction(backwards.score.flip(0), backwards.map.flip(0))
    for check, other, by in (
        ("batch size", alone, "the size of the test batch"),
        ("order", turned, "the order of the test images"),
    ):
        gap = difference(found, other)
        if not gap:
            worker.say(check)
        elif declared:
            worker.say(check, skipped=f"the method declares that it depends on its batch: {declared} ({gap})")
        else:
            worker.say(
                check, f"Scores depend on {by}: {gap}; if it must be so, say why in Method.depends_on_batch."
            )


def _save_state(worker: Worker, method: Method) -> None:
    state: object = method.state_dict()
    stray = (
        [name for name, value in state.items() if not isinstance(value, Tensor)]
        if isinstance(state, dict)
        else ["it"]
    )
    if not isinstance(state, dict) or stray:
        worker.say("state", f"state_dict must be a dict of tensors; {stray[0]} is none.")
        return
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, worker.job.folder / "state.safetensors")
    except RuntimeError as error:
        worker.say("state", f"state_dict cannot be saved: {str(error).splitlines()[0]}")


def step_again(worker: Worker) -> None:
    """Fit with the same seed in the same process, predicting at the end of each epoch as a protocol may."""
    first, images = worker.result(), worker.test_images()
    method = worker.build()
    wrong: list[str] = []

    def look(epoch: Epoch) -> None:
        with GeneratorState(worker.device):
            found = worker.predict(method, images)
        if not bool(torch.isfinite(found.score).all()):
            wrong.append(f"predict called from on_epoch of epoch {epoch.number} gives scores not finite.")

    size = worker.job.image_size
    worker.fit(method, synthetic(TRAIN, size, 0), synthetic(VALIDATION, size, 1), on_epoch=look)
    worker.say("epochs", wrong[0] if wrong else "")
    gap = difference(first, worker.predict(method, images), 0)
    breach = (
        f"A second fit in one process, with the same seed and predict called from on_epoch, differs: {gap}."
    )
    worker.say("same seed", breach if gap else "")


def step_fresh(worker: Worker) -> None:
    """Fit with the same seed in a new process."""
    gap = difference(worker.result(), worker.predict(worker.fitted(), worker.test_images()), 0)
    worker.say("same seed", f"A fit with the same seed in a new process differs: {gap}." if gap else "")


def step_seed(worker: Worker) -> None:
    """Fit with another seed."""
    gap = difference(worker.result(), worker.predict(worker.fitted(seed=1), worker.test_images()), 0)
    worker.say("different seed", note="" if gap else "the scores do not depend on the seed")


def step_leave(worker: Worker) -> None:
    """A whole run, and what of it is left in the process."""
    cuda = worker.device.type == "cuda"
    gc.collect()
    allocated = torch.cuda.memory_allocated(worker.device) if cuda else 0
    method = worker.fitted()
    worker.predict(method, worker.test_images())
    del method
    gc.collect()
    for breach in worker.before.changes(process_state()) or [""]:
        worker.say("process", breach)
    if not cuda:
        worker.say("GPU memory", skipped="no GPU is used")
        return
    torch.cuda.empty_cache()
    kept = torch.cuda.memory_allocated(worker.device) - allocated
    breach = f"{kept / 1e6:.0f} MB of GPU memory are still held after the method is gone."
    worker.say("GPU memory", breach if kept > GPU_REST else "")


def step_reload(worker: Worker) -> None:
    """The saved state in a new process."""
    first, path = worker.result(), worker.job.folder / "state.safetensors"
    if not path.exists():
        raise NotRunError("the state was not saved")
    # The same seed: random backbone weights are drawn from it and are not part of the state.
    method = worker.build()
    method.load_state_dict(load_file(path))
    gap = difference(first, worker.predict(method, worker.test_images()), 0)
    worker.say("state", f"With its state loaded in a new process the method differs: {gap}." if gap else "")


def step_gray(worker: Worker) -> None:
    """Files with one channel and odd sides, through the harness's own image path."""
    with tempfile.TemporaryDirectory(dir=worker.job.folder) as name:
        folder = Path(name)
        paths = []
        for i, image in enumerate(synthetic(TRAIN + VALIDATION, 97, 3)):
            paths.append(folder / f"{i:02}.png")
            Image.fromarray(image[:75, :, 0]).save(paths[-1])
        array = np.array(load_images(paths, ImageFit(worker.job.image_size), folder / "cache"))
    method = worker.build()
    worker.fit(method, array[:TRAIN], array[TRAIN:])
    worker.say("grayscale", _usable(worker, method, Images(array).batch(range(2)), worker.job.image_size))


def step_size(worker: Worker) -> None:
    """Another, where possible odd, image size."""
    size = worker.job.odd_size
    try:
        method = worker.fitted(size=size)
        breach = _usable(worker, method, worker.test_images(size), size)
    except Exception as error:
        worker.say(
            "image size",
            "" if own_sentence(error) else f"At {size} px {say_all(error)}",
            note=f"refused: {error}",
        )
        return
    worker.say("image size", breach, note=f"{size} px")


def step_single(worker: Worker) -> None:
    """One training and one validation image."""
    size = worker.job.image_size
    method = worker.build()
    try:
        worker.fit(method, synthetic(1, size, 0), synthetic(1, size, 1))
        breach = _usable(worker, method, worker.test_images(), size)
    except Exception as error:
        breach = "" if own_sentence(error) else f"With a single training image {say_all(error)}"
        worker.say("single image", breach, note=f"refused: {error}")
        return
    worker.say("single image", breach)


def _usable(worker: Worker, method: Method, images: Tensor, size: int) -> str:
    found = worker.predict(method, images)
    if breaches := _shape_breaches(found, len(images), size):
        return breaches[0]
    finite = torch.isfinite(found.score).all() and torch.isfinite(found.map).all()
    return "" if finite else "The scores or maps are not finite."


def step_interrupt(worker: Worker) -> None:
    """Fits on and on until the driver's Ctrl-C; ends the process as soon as it comes out of ``fit``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    size = worker.job.image_size
    train, validation = synthetic(TRAIN, size, 0), synthetic(VALIDATION, size, 1)
    method = worker.build()
    try:
        (worker.job.folder / "fitting").touch()
        while True:
            worker.fit(method, train, validation)
            method = worker.build()
    except KeyboardInterrupt:
        os._exit(130)


STEPS: Mapping[str, Callable[[Worker], None]] = {
    "fit": step_fit,
    "again": step_again,
    "seed": step_seed,
    "leave": step_leave,
    "reload": step_reload,
    "fresh": step_fresh,
    "gray": step_gray,
    "size": step_size,
    "single": step_single,
    "interrupt": step_interrupt,
}


def main() -> None:
    """Runs the job whose file is named on the command line."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    Worker(Job.read(Path(sys.argv[1]))).run(STEPS)


if __name__ == "__main__":
    main()
