"""Simulated records whose truth is known: `python -m tests.reports.simulated FOLDER N`.

They say of themselves that they are simulated, and so does every report on them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from harness.results.store import record_path
from harness.spec.fingerprints import fingerprint
from harness.spec.record import KINDS_MEAN, EpochLog, Failure, Outcome, RunRecord, Timings
from harness.spec.run import Identity, RunSpec, run_key

PLAIN = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
SPRO = ("spro_0.01", "spro_0.05", "spro_0.1", "spro_0.3", "spro_1")
KINDS = ("logical", "structural")
NOISE = 0.01
_BAD: tuple[Outcome, ...] = ("failed", "out_of_memory", "timeout")


@dataclass(frozen=True)
class Simulation:
    """N simulated runs: every method on every category with every seed under both protocols, but for some.

    Of all runs about one in a hundred is missing and one in fifty has no numbers.

    Attributes:
        n: how many records there are.
        seeds: how many seeds.
        epochs: how many epochs each record logs; they make up most of a record's size.
    """

    n: int
    seeds: int = 5
    epochs: int = 25
    categories: tuple[str, ...] = tuple(f"category_{c:02}" for c in range(15))
    protocols: tuple[str, ...] = ("strict", "paper")

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """Names; every fifth has kinds of anomalies and sPRO, as of the real five MVTec LOCO has."""
        return tuple(f"simulated_{d}" for d in range(max(1, round((self.n / self._runs) ** 0.5 / 2))))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names, from the best to the worst."""
        # A few more runs than records, as some are missing.
        return tuple(
            f"method_{m:02}" for m in range(-int(-1.03 * self.n // (self._runs * len(self.datasets))))
        )

    @property
    def _runs(self) -> int:
        return len(self.categories) * self.seeds * len(self.protocols)

    def kinds(self, dataset: str) -> tuple[str, ...]:
        """The kinds of anomalies of a dataset that are splits."""
        return KINDS if self.datasets.index(dataset) % 5 == 0 else ()

    def truth(self, method: str, category: str, split: str) -> float:
        """What every metric is but for the noise of seeds, in [0, 1]."""
        better = self.methods.index(method) / len(self.methods)
        hard = self.categories.index(category) / len(self.categories)
        return 0.95 - 0.2 * better - 0.1 * hard - (0.1 if split == "logical" else 0.0)

    def records(self) -> Iterator[RunRecord]:
        """The records, one after another; always the same."""
        made = 0
        for run in product(self.datasets, self.methods, self.protocols, self.categories, range(self.seeds)):
            if made == self.n:
                return
            chance = np.random.default_rng(int(hashlib.sha256(repr(run).encode()).hexdigest()[:8], 16))
            luck = chance.random()
            if luck >= 0.01:
                made += 1
                yield self._record(*run, chance, _BAD[int(luck * 1e4) % 3] if luck < 0.03 else "ok")

    def write(self, results: Path) -> None:
        """Writes the records, in a hurry: nothing is waited for until it is on the disk."""
        for record in self.records():
            path = record_path(results, record.spec, record.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.model_dump_json(indent=1).encode() + b"\n")

    def _record(
        self,
        dataset: str,
        method: str,
        protocol: str,
        category: str,
        seed: int,
        chance: np.random.Generator,
        outcome: Outcome,
    ) -> RunRecord:
        spec = RunSpec(dataset=dataset, category=category, method=method, seed=seed, protocol=protocol)
        identity = Identity(
            method_version=1,
            config={"backbone": "wide_resnet50_2", "epochs": self.epochs, "layers": [1, 2, 3], "lr": 0.001},
            weights={"wide_resnet50_2": "0" * 64},
            data=hashlib.sha256(f"{dataset}/{category}".encode()).hexdigest()[:16],
            score_rule="maximum of the map",
        )
        kinds = self.kinds(dataset)
        metrics: dict[str, dict[str, float | None]] = {}
        for split in ("all", *kinds):
            names = PLAIN + (SPRO if kinds else ())
            truth = self.truth(method, category, split)
            found = np.clip(truth + NOISE * chance.standard_normal(len(names)), 0, 1).tolist()
            metrics[split] = dict(zip(names, found, strict=True))
        if kinds:
            metrics[KINDS_MEAN] = {m: sum(metrics[k][m] or 0.0 for k in kinds) / len(kinds) for m in SPRO}
        good = outcome == "ok"
        paper = protocol == "paper"
        losses = chance.random((self.epochs, 3)).tolist()
        return RunRecord(
            key=run_key(spec, identity),
            spec=spec,
            identity=identity,
            fingerprint=fingerprint(spec, identity, 1),
            outcome=outcome,
            failure=None if good else Failure(message="simulated", traceback="Traceback: simulated\n" * 20),
            metrics=metrics if good else {},
            metrics_last=metrics if good and paper else None,
            selected_epoch=self.epochs if good else None,
            epochs=[
                EpochLog(number=i + 1, losses={"a": a, "b": b, "c": c}, test_image_auroc=a if paper else None)
                for i, (a, b, c) in enumerate(losses)
            ],
            categories=list(self.categories),
            counts={"train": 200, "validation": 20, "test": 100, "normal": 40, "anomalous": 60},
            timings=Timings(load=1, fit=100, predict=2, evaluate=3, images_per_second=50) if good else None,
            peak_memory={"host": 10**9, "device": 3 * 10**9},
            environment={"simulated": True, "device": "none", "packages": {"numpy": "0", "torch": "0"}},
            citation=f"@article{{{method},\n  title = {{Simulated}},\n  year = 2026\n}}",
            finished="2026-01-01T00:00:00.000+00:00",
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("n", type=int)
    given = parser.parse_args()
    Simulation(given.n).write(given.folder)
