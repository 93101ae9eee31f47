"""Results folders for the tests of `bench check`: records with the scores, times and hardware asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.results.store import write_record
from harness.spec.fingerprints import fingerprint
from harness.spec.record import Failure, RunRecord, Timings
from harness.spec.run import Identity, RunSpec, run_key

GPU = {
    "device": "cuda:0",
    "gpu": "NVIDIA H100",
    "cpu": "AMD EPYC",
    "threads": 8,
    "driver": "550.1",
    "cuda": "12.4",
    "packages": {"torch": "2.5.0", "anomalib": "2.7.0"},
    "git": "a" * 40,
}
# Seeds 0 to 4 scatter by 0.3 points.
SPREAD = (0.0035, -0.0030, 0.0010, 0.0025, -0.0040)


def record(
    category: str = "a",
    method: str = "ulsad",
    seed: int = 0,
    score: float | None = 0.95,
    fit: float = 60.0,
    predict: float = 5.0,
    memory: Mapping[str, int] | None = None,
    dataset: str = "mpdd",
    failure: str = "",
    environment: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    finished: str = "2026-01-01T00:00:00",
    metrics_version: int = 2,
) -> RunRecord:
    """One record; its pixel AUROC is 0.01 above its image AUROC."""
    run = RunSpec(dataset=dataset, category=category, method=method, seed=seed, **spec or {})
    known = {"method_version": 1, "config": {"epochs": 60}, "weights": {"resnet": "1" * 64}, "data": "d1"}
    found = Identity.model_validate(known | {"score_rule": "max of the map"} | dict(identity or {}))
    done: dict[str, Any] = {"outcome": "failed", "failure": Failure(message=failure)}
    if not failure:
        pixel = None if score is None else score + 0.01
        done = {
            "outcome": "ok",
            "metrics": {"all": {"image_auroc": score, "pixel_auroc": pixel, "aupro": None}},
            "timings": Timings(load=1, fit=fit, predict=predict, evaluate=1, images_per_second=10),
            "peak_memory": dict(memory or {"host": 2**31, "device": 2**32}),
        }
    return RunRecord(
        key=run_key(run, found),
        spec=run,
        identity=found,
        fingerprint=fingerprint(run, found, metrics_version),
        environment=dict(environment or GPU),
        finished=finished,
        **done,
    )


def write(
    folder: Path,
    categories: Sequence[str] = ("a", "b", "c"),
    methods: Sequence[str] = ("ulsad", "dfr"),
    lost: float = 0.0,
    slow: float = 1.0,
    hit: Sequence[str] = ("ulsad",),
    seeds: int = 5,
    turn: int = 0,
    spread: float = 1.0,
    **given: Any,
) -> Path:
    """Writes the records of methods × categories × seeds.

    Args:
        folder: results folder.
        categories: names.
        methods: names.
        lost: points that the methods in ``hit`` lose, in [0, 1].
        slow: factor of their times.
        hit: names.
        seeds: number of seeds.
        turn: how far the seeds' deviations are shifted round, as where another library shifts each at random.
        spread: factor of the deviations.
        given: for :func:`record`.
    """
    for at, category in enumerate(categories):
        for method in methods:
            for seed in range(seeds):
                changed = method in hit
                deviation = spread * SPREAD[(seed + turn * (at + 1)) % 5]
                made = record(
                    category,
                    method,
                    seed,
                    score=0.95 + deviation - lost * changed,
                    fit=60 * (1 + deviation) * (slow if changed else 1),
                    predict=5 * (1 - deviation) * (slow if changed else 1),
                    **given,
                )
                write_record(folder, made)
    return folder
