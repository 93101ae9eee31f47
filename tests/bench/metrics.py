"""Pixel metrics: ours, exact, against torchmetrics with anomalib's AUPRO, and against adeval, which bins."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from harness.metrics.exact import pixel_metrics
from harness.profiling.memory import PeakMemory
from tests.bench.pairs import Pair

SIDE = 256


def maps_and_masks(count: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Smooth maps; a third of the images has one or two round defects, where the map is higher."""
    generator = np.random.default_rng(0)
    maps = np.empty((count, SIDE, SIDE), np.float32)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for index in range(count):
        maps[index] = cv2.GaussianBlur(generator.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 4)
        for _ in range(generator.integers(1, 3) if index % 3 == 0 else 0):
            x, y, radius = (int(v) for v in generator.integers((30, 30, 6), (226, 226, 25)))
            cv2.circle(masks[index], (x, y), radius, 1, -1)
        maps[index] += 0.1 * masks[index]
    return maps, masks


def by_torchmetrics_and_anomalib(maps: torch.Tensor, masks: torch.Tensor) -> tuple[float, float]:
    """Returns pixel AUROC and AUPRO."""
    from anomalib.metrics.aupro import _AUPRO
    from torchmetrics.functional.classification import binary_auroc

    aupro: Any = _AUPRO()
    aupro.update(maps, masks)
    return float(binary_auroc(maps.flatten(), masks.flatten())), float(aupro.compute())


def by_adeval(maps: torch.Tensor, masks: torch.Tensor, bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns pixel AUROC and AUPRO, binned; it must know the range of the maps beforehand."""
    import adeval

    if not hasattr(np, "trapz"):
        # NumPy 2.4 dropped the name that adeval 1.1 calls.
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    gather = adeval.EvalAccumulator(0, 1, *bounds)
    gather.add_anomap_batch(maps.numpy(), masks.numpy().astype(np.uint8))
    for label in (0, 1):
        gather.add_image(float(label), label)
    found = gather.summary()
    return float(found["p_auroc"]), float(found["p_aupro"])


def pairs(rounds: int = 5) -> Iterator[Pair]:
    """Yields the comparisons, each checked to give the same numbers before it is timed."""
    maps, masks = maps_and_masks(320)
    tensors = torch.from_numpy(maps), torch.from_numpy(masks).long()
    bounds = float(maps.min()), float(maps.max())
    peers = {"torchmetrics and anomalib": (lambda: by_torchmetrics_and_anomalib(*tensors), 2e-3, 20)}
    if importlib.util.find_spec("adeval"):
        peers["adeval"] = (lambda: by_adeval(*tensors, bounds), 5e-3, 1)
    else:
        # Its requirement of opencv-python would replace the headless one.
        print("adeval is left out: pip install --no-deps adeval")  # noqa: T201
    ours = pixel_metrics(maps, masks)
    note = f"{len(maps)} maps of {SIDE} px, pixel AUROC and AUPRO (ours AP and F1-max too)"

    def measured() -> object:
        return pixel_metrics(maps, masks)

    for name, (work, within, target) in peers.items():
        found, own = work(), (ours["pixel_auroc"], ours["aupro"])
        if not np.allclose(own, found, atol=within):
            raise RuntimeError(f"{name} finds pixel AUROC and AUPRO {found}, ours {own}")
        yield Pair("pixel metrics", measured, work, name, target, rounds, note=note)
    yield Pair("pixel metrics' memory", lambda: _bytes_per_pixel(4), lambda: 6, "6 bytes a pixel", 1, 2, "B")


def _bytes_per_pixel(times: int) -> float:
    """Peak bytes above the maps and masks themselves, for 84 million pixels."""
    maps, masks = maps_and_masks(8)
    maps, masks = np.tile(maps, (40 * times, 1, 1)), np.tile(masks, (40 * times, 1, 1))
    memory = PeakMemory(torch.device("cpu"))
    pixel_metrics(maps, masks)
    return memory.read()["host"] / maps.size
