"""A trained method as one file that needs no ulsad-bench: ONNX, ``torch.export`` or TorchScript."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.common.errors import UserError
from harness.common.files import temporary_name
from harness.method import Method
from harness.spec.record import RunRecord

# How far scores and maps may be from PyTorch's, as a share of the largest of PyTorch's.
TOLERANCE = 1e-4
SUFFIXES = (".onnx", ".pt2", ".pt")
# A file for any number of images is traced with the first of these, and compared with PyTorch at all of them.
# Exporters take 1 for a number that never changes.
_COUNTS = (2, 1, 5)
_NEEDED = ("onnx", "onnxruntime", "onnxscript")

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Runner = Callable[[Tensor], Outputs]


class _Line(nn.Module):
    """uint8 ``[B, 3, S, S]`` → score ``[B]`` and map ``[B, S, S]``, float32: a method's ``predict``."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self._method = method
        # Their weights get names, and are not asked for gradients.
        own = {name: part for name, part in vars(method).items() if isinstance(part, nn.Module)}
        self.parts = nn.ModuleDict(own).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self._method.predict(images)
        return prediction.score.float(), prediction.map.float()


def check_output(output: Path) -> None:
    """Makes sure that a file of this name can be made.

    Raises:
        UserError: its suffix is unknown, or packages are missing.
    """
    if output.suffix not in SUFFIXES:
        raise UserError(f"{output} has no known suffix: give a file ending in .onnx, .pt2 or .pt.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if output.suffix == ".onnx" and missing:
        raise UserError(f'ONNX needs {missing[0]}: pip install "ulsad-bench[onnx]", or write a .pt2 file.')


def export(method: Method, record: RunRecord, output: Path, batch: int | None = None) -> float:
    """Writes a trained method as a file and compares it with PyTorch; one that differs is not left.

    The file takes ``images``, uint8 ``[batch, 3, S, S]``, RGB, and gives ``score`` and ``map``.

    Args:
        method: as it was trained, on the CPU.
        record: of its run.
        output: the file, ``.onnx``, ``.pt2`` or ``.pt``.
        batch: how many images it takes at a time; ``None`` for any number.

    Returns:
        The largest difference from PyTorch over several batches, as a share of PyTorch's largest value.

    Raises:
        UserError: the method cannot be written so, the file gives something else, or cannot be written.
    """
    size = record.spec.image_size
    examples = [images for count in ([batch] if batch else _COUNTS) for images in _examples(count, size)]
    # What a method makes at its first image must be there before it is traced.
    method.predict(examples[0])
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / temporary_name(output.name)
    hint = "" if batch else " Perhaps it can be with a fixed number of images: give --batch 1."
    try:
        try:
            run = _write(_Line(method).eval(), examples[0], output.suffix, temporary, batch is None)
            difference = max(_difference(method, run, images) for images in examples)
        except OSError:
            raise
        except Exception as error:  # tracing runs a method's own code, and fails anywhere in it
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"Method '{record.spec.method}' cannot be exported ({reason}).{hint}") from error
        if not difference <= TOLERANCE:
            raise UserError(
                f"The exported {record.spec.method} differs from PyTorch by {difference:.1e} of the largest "
                f"value, more than {TOLERANCE:g}: {output} is not written.{hint}"
            )
        temporary.replace(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _write(line: nn.Module, example: Tensor, suffix: str, path: Path, any_number: bool) -> Runner:
    """Writes a file and returns the function that it is, read back."""
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch warns of what it is going to change in itself, and of numbers that tracing makes constant.
        warnings.simplefilter("ignore")
        if suffix == ".pt":
            # Comparing is done here, and of more images.
            torch.jit.trace(line, (example,), check_trace=False).save(path)  # type: ignore[no-untyped-call]
            loaded = torch.jit.load(path)  # type: ignore[no-untyped-call]
            return lambda images: _arrays(loaded(images))
        shapes = ({0: torch.export.Dim("batch")},) if any_number else None
        program = torch.export.export(line, (example,), dynamic_shapes=shapes, strict=False)
        if suffix == ".pt2":
            with path.open("wb") as file:
                torch.export.save(program, file)
            with path.open("rb") as file:
                module = torch.export.load(file).module()
            return lambda images: _arrays(module(images))
        for name in ("torch.onnx", "onnxscript"):
            logging.getLogger(name).setLevel(logging.ERROR)
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["score", "map"]}
        made = torch.onnx.export(program, (example,), dynamo=True, verbose=False, **names)
        assert made is not None  # noqa: S101 - the exporter of `dynamo` returns it
        made.save(path, external_data=False)
    return _onnx(path)


def _onnx(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        score, heat = session.run(["score", "map"], {"images": images.numpy()})
        return score, heat

    return run


def _arrays(outputs: tuple[Tensor, Tensor]) -> Outputs:
    score, heat = outputs
    return score.numpy(force=True), heat.numpy(force=True)


def _examples(batch: int, size: int) -> Iterator[Tensor]:
    """Yields images of all sorts: coarse and fine noise, black and white."""
    generator = torch.Generator().manual_seed(0)
    for side in (max(size // 32, 1), size // 4, size):
        noise = torch.rand((batch, 3, side, side), generator=generator)
        yield (255 * F.interpolate(noise, size=(size, size), mode="bilinear")).to(torch.uint8)
    for value in (0, 255):
        yield torch.full((batch, 3, size, size), value, dtype=torch.uint8)


def _difference(method: Method, run: Runner, images: Tensor) -> float:
    with torch.no_grad():
        prediction = method.predict(images)
    wanted = _arrays((prediction.score.float(), prediction.map.float()))
    largest = max(float(np.abs(one).max()) for one in wanted)
    found = run(images)
    if [one.shape for one in found] != [one.shape for one in wanted]:
        return float("inf")
    apart = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
    return apart / max(largest, float(np.finfo(np.float32).tiny))
