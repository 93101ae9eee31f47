"""What travels to the nodes of a cluster, and how a run finds there what does not travel.

The package itself goes with the job: a folder that stands in for an installed one. A method's file and a
card of one's own go with their runs, a few kB each, so that no older copy on a node is taken for them.
Images, weights and assets do not travel: a node has them at the same path, or where its own environment
says, and what it finds is compared with what the run was planned on.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.common.files import cache_dir
from harness.common.places import Places
from harness.data.card import cards_folder
from harness.results.artefacts import claim_path

if TYPE_CHECKING:
    from harness.planning.task import RunTask
    from harness.registry.weights import Weights

_PROJECT = "ulsad-bench"


@dataclass(frozen=True)
class Parcel:
    """A run on its way to a node.

    Attributes:
        files: contents of the files of one's own that it needs, by name.
    """

    task: RunTask
    files: Mapping[str, bytes]


def package(folder: Path) -> None:
    """Copies the code, cards and entry points of ulsad-bench into an empty folder.

    On the module path the folder stands in for the installed package.
    """
    found = distribution(_PROJECT)
    rooms = {point.value.partition(":")[0].partition(".")[0] for point in found.entry_points}
    for room in sorted(rooms):
        spec = importlib.util.find_spec(room)
        for source in (spec.submodule_search_locations if spec else None) or ():
            shutil.copytree(source, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(cards_folder(), folder / "harness" / "cards", dirs_exist_ok=True)
    info = folder / f"{_PROJECT.replace('-', '_')}-{found.version}.dist-info"
    info.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (info / name).write_text(found.read_text(name) or "", encoding="utf-8")


def pack_task(task: RunTask) -> Parcel:
    """Makes a run ready to go to another machine."""
    own = [Path(task.method.rpartition(":")[0])] if ".py:" in task.method else []
    own += [Path(task.card)] if task.card.endswith(".toml") else []
    places = task.places
    absolute = Places(
        cache=places.cache.absolute(),
        data_root=places.data_root.absolute() if places.data_root else None,
        results=places.results.absolute(),
    )
    return Parcel(replace(task, places=absolute), {path.name: path.read_bytes() for path in own})


def unpack_task(parcel: Parcel, folder: Path) -> RunTask:
    """Returns the run as it can be executed on this node.

    Args:
        parcel: what :func:`pack_task` gave.
        folder: an empty folder, there for as long as the run goes on.

    Raises:
        UserError: something that the run needs is not on this node, or is not the same here.
    """
    task = parcel.task
    for name, content in parcel.files.items():
        (folder / name).write_bytes(content)
    if ".py:" in task.method:
        path, _, name = task.method.rpartition(":")
        task = replace(task, method=f"{folder / Path(path).name}:{name}")
    if task.card.endswith(".toml"):
        task = replace(task, card=str(folder / Path(task.card).name))
    data, places = os.environ.get("BENCH_DATA"), task.places
    own_cache = "BENCH_CACHE" in os.environ or not places.cache.is_dir()
    here = replace(
        places,
        data_root=Path(data).expanduser() if data else places.data_root,
        cache=cache_dir() if own_cache else places.cache,
    )
    task = replace(task, places=here)
    task = replace(task, weights=_weights(task), assets=_assets(task))
    # While a run is claimed, its claim lies beside the record that is to be: here too, if it is shared.
    if claim_path(task.record_path).exists():
        return task
    if task.keep:
        kept = ", ".join(sorted(task.keep))
        raise UserError(
            f"The results folder {here.results} is not the driver's on node {platform.node()}, and {kept} "
            "could not be kept there: give a --results that all nodes share, or leave --keep out."
        )
    return replace(task, places=replace(here, results=folder / "results"))


def _weights(task: RunTask) -> dict[str, Weights]:
    from harness.registry.weights import find_weights

    pretrained = task.spec.backbone_weights == "pretrained"
    found = {name: find_weights(name, task.places.cache, pretrained) for name in task.weights}
    for name, weights in found.items():
        _compare(f"the weights of backbone '{name}'", weights.sha256, task.weights[name].sha256)
    return found


def _assets(task: RunTask) -> dict[str, Path]:
    from harness.registry.assets import find_asset
    from harness.registry.methods import configure, load_method

    if not task.assets:
        return {}
    method = load_method(task.method)
    needs = method.needs(configure(method, task.spec.method, task.identity.config))
    found = {asset.name: find_asset(asset, task.places.cache) for asset in needs.assets}
    for name, asset in found.items():
        _compare(f"asset '{name}'", asset.sha256, task.identity.weights[f"asset:{name}"])
    return {name: asset.folder for name, asset in found.items()}


def _compare(what: str, here: str, planned: str) -> None:
    if here != planned:
        raise UserError(
            f"Node {platform.node()} has {what} with SHA-256 {here[:12]}…, but the run was planned on "
            f"{planned[:12]}…: put the same file on all nodes."
        )
