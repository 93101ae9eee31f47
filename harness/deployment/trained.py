"""What a run has learned, kept beside its record by ``--keep weights``, and the method made again from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from harness.common.errors import UserError
from harness.execution.devices import seed_everything
from harness.method import Method
from harness.registry.assets import find_asset
from harness.registry.methods import configure, load_method, source_hash
from harness.registry.names import parse_name
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import RANDOM, find_weights
from harness.results.artefacts import weights_path
from harness.results.store import Damaged, newest, read_record, read_records, record_path
from harness.spec.record import RunRecord


@dataclass(frozen=True)
class Wanted:
    """Which run of a results folder is meant; what is ``None`` may be anything."""

    method: str | None = None
    dataset: str | None = None
    category: str | None = None
    seed: int | None = None
    protocol: str | None = None

    def fits(self, record: RunRecord) -> bool:
        """Whether a record is of such a run."""
        return all(value in (None, getattr(record.spec, name)) for name, value in vars(self).items())


def find_run(run: Path | None, results: Path, wanted: Wanted) -> tuple[Path, RunRecord]:
    """Returns a run with numbers and the path of its record.

    Args:
        run: path of the record, ``None`` where it is to be found in ``results``.
        results: the results folder.
        wanted: which of its runs.

    Raises:
        UserError: there is no such run, it has no numbers, or several are as wanted.
    """
    if run is not None:
        record = read_record(run)
        if isinstance(record, Damaged):
            raise UserError(f"{run} {record}: give the .json file of a run in a results folder.")
        if record.outcome != "ok":
            raise UserError(f"The run {record.spec.label()} has no numbers: it ended as '{record.outcome}'.")
        return run, record
    found = [r for r in newest(read_records(results).records) if r.outcome == "ok" and wanted.fits(r)]
    if not found:
        raise UserError(f"No run in {results} is as asked for: `bench report` shows what there is.")
    if len(found) > 1:
        differ = [name for name in vars(wanted) if len({getattr(r.spec, name) for r in found}) > 1]
        rest = ", ".join(f"--{name}" for name in differ) or "the path of its record"
        raise UserError(f"{len(found)} runs in {results} are as asked for: tell one by {rest}.")
    (record,) = found
    return record_path(results, record.spec, record.key), record


@contextmanager
def trained_method(
    path: Path, record: RunRecord, device: str, cache: Path, private: str = ""
) -> Iterator[Method]:
    """Makes a run's method again, in the state of its last epoch; its scratch folder goes with the block.

    Args:
        path: of the record.
        record: of the run.
        device: where it computes.
        cache: the cache folder.
        private: ``path/to/file.py:Class`` of a private method.

    Raises:
        UserError: no weights were kept, or method, pretrained weights or assets are not those of the run.
    """
    kept = weights_path(path)
    if not kept.is_file():
        raise UserError(
            f"The run {record.spec.label()} has no kept weights ({kept.name} beside its record): do it again "
            "with `bench run --keep weights`."
        )
    method = _method(record, private)
    config = configure(method, record.spec.method, record.identity.config)
    needs = method.needs(config)
    if RANDOM in record.identity.weights.values():
        raise UserError(
            f"The run {record.spec.label()} had a backbone with random weights, which are not kept: train "
            "with pretrained ones."
        )
    weights = {name: find_weights(name, cache) for name in needs.backbones}
    assets = {asset.name: find_asset(asset, cache) for asset in needs.assets}
    found = {name: one.sha256 for name, one in weights.items()}
    found |= {f"asset:{name}": one.sha256 for name, one in assets.items()}
    _compare(record.identity.weights, found)
    seed_everything(record.spec.seed)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folders = {name: one.folder for name, one in assets.items()}
        spec = record.spec
        around = Surroundings(torch.device(device), spec.image_size, spec.seed, Path(scratch))
        made = method(config, make_setup(weights, folders, around))
        try:
            state = load_file(kept)
            odd = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
            if odd is None:
                made.load_state_dict(state)
        except Exception as error:  # a damaged file, or one of another run, fails anywhere in a method's code
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"The kept weights {kept} do not fit their run ({reason}): do it again with --keep weights."
            ) from error
        if odd is not None:
            raise UserError(
                f"The kept weights {kept} have values in '{odd}' that are not finite: do the run again with "
                "--keep weights, and --overwrite always."
            )
        yield made


def _method(record: RunRecord, private: str) -> type[Method]:
    name = parse_name(private or record.spec.method)
    if not private and ".py:" in record.spec.method:
        short = parse_name(record.spec.method).base.rpartition("/")[2]
        raise UserError(
            f"The run's method is in a file of its own: give it by --method-file path/to/{short}."
        )
    if record.identity.source != source_hash(name):
        raise UserError(f"{private} is not the file that the run was made with: its content is another.")
    method = load_method(name.base)
    if method.version != record.identity.method_version:
        raise UserError(
            f"The run was made with version {record.identity.method_version} of its method, here is version "
            f"{method.version}: train again, or install that ulsad-bench."
        )
    return method


def _compare(recorded: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, sha256 in found.items():
        if recorded.get(name) != sha256:
            raise UserError(
                f"The weights of '{name}' on this machine (SHA-256 {sha256[:12]}…) are not those that the "
                f"run was made with ({recorded.get(name, 'none')[:12]}…): put those there, or train again."
            )
