"""What methods need beside backbones: pictures, textures, a teacher's weights.

An asset is a folder: ``$BENCH_ASSETS/<name>`` where there is one, else ``assets/<name>`` in the cache, where
``bench prepare`` puts it, or a person. It is known by the SHA-256 sum of what it holds, whichever way it
came.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.common.archives import Limits, is_archive, unpack, writing_to
from harness.common.download import DownloadProgress, Remote, download
from harness.common.errors import MissingError, UserError
from harness.common.files import folder_in_the_making, remove, remove_leftovers
from harness.data.decoding import Pixels
from harness.data.file_hashes import content_hashes
from harness.method import PHOTOGRAPHS, Asset

_MARKER = ".asset.json"
_MAX_FILES = 200_000
_MAX_GROWTH = 20  # pictures and weights hardly shrink when packed

# Real colour photographs that lie in scikit-image's wheel. The demo dataset is made from others.
_PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
    "stereo_motorcycle",
)


@dataclass(frozen=True)
class FoundAsset:
    """An asset on this machine.

    Attributes:
        folder: where its files lie.
        sha256: over names and contents of its files (of the photographs: names and pixels).
    """

    folder: Path
    sha256: str


def asset_folder(asset: Asset, cache: Path) -> Path:
    """Returns where an asset is expected in the cache."""
    return cache / "assets" / asset.name


def find_asset(asset: Asset, cache: Path) -> FoundAsset:
    """Finds an asset without downloading; the photographs are made if need be.

    Raises:
        MissingError: it is not on this machine; the sentence says how it gets there.
        UserError: its folder is empty or cannot be read, or the photographs cannot be made.
    """
    place = os.environ.get("BENCH_ASSETS")
    if place and (folder := Path(place).expanduser() / asset.name).is_dir():
        return FoundAsset(folder.resolve(), _contents(folder, cache))
    folder = asset_folder(asset, cache)
    if asset == PHOTOGRAPHS:
        return _photographs(folder)
    if _is_current(asset, folder):
        return FoundAsset(folder, _contents(folder, cache))
    fetched = "run `bench prepare` with the same options, or " if asset.url else ""
    source = f" from {asset.url}" if asset.url else ""
    raise MissingError(
        f"Asset '{asset.name}' ({asset.about}) is not on this machine: {fetched}get it{source} and put "
        f"what it holds into {folder}, or into {asset.name} in a folder that BENCH_ASSETS names."
    )


def fetch_asset(asset: Asset, cache: Path, progress: DownloadProgress | None = None) -> FoundAsset:
    """Downloads and unpacks an asset into the cache; a file that is no archive is put there as it is.

    Raises:
        UserError: it has no address, cannot be had, or is not what it should be.
    """
    if not asset.url:
        return find_asset(asset, cache)  # says what to do by hand
    folder = asset_folder(asset, cache)
    name = asset.url.partition("?")[0].rpartition("/")[2] or asset.name
    file = folder.parent / f"{asset.name}-{name}"
    download(Remote(asset.url, asset.sha256), file, progress)
    try:
        with writing_to(folder.parent):
            _install(asset, file, name, folder)
    except UserError:
        if not _is_current(asset, folder):  # else another process was faster, and took the archive away
            raise
    return find_asset(asset, cache)


def _install(asset: Asset, file: Path, name: str, folder: Path) -> None:
    remove_leftovers(folder.parent)
    if not _is_current(asset, folder):
        remove(folder)
        with folder_in_the_making(folder) as made:
            if is_archive(name):
                unpack(file, made, Limits(_MAX_FILES, _MAX_GROWTH * file.stat().st_size + 2**24))
            else:
                file.rename(made / name)
            (made / _MARKER).write_text(json.dumps({"archive": asset.sha256}))
    file.unlink(missing_ok=True)


def _is_current(asset: Asset, folder: Path) -> bool:
    # What a person put there has no marker.
    return folder.is_dir() and _marker(folder).get("archive", asset.sha256) == asset.sha256


def _marker(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _contents(folder: Path, cache: Path) -> str:
    """Returns one SHA-256 over names and contents; hidden files, which systems leave about, do not count."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names = sorted((n for n in names if not any(p.startswith(".") for p in n.parts)), key=Path.as_posix)
    if not names:
        raise UserError(f"The asset folder {folder} is empty: put the asset's files there, or remove it.")
    hashes = content_hashes([folder / name for name in names], cache)
    digest = hashlib.sha256()
    for name, sha256 in zip(names, hashes, strict=True):
        digest.update(f"{name.as_posix()}\0{sha256}\0".encode())
    return digest.hexdigest()


def _photographs(folder: Path) -> FoundAsset:
    marker = _marker(folder)
    files = marker.get("files", "").split()
    if files and all((folder / name).is_file() for name in files):
        return FoundAsset(folder, marker["contents"])
    digest = hashlib.sha256()
    with writing_to(folder.parent):
        remove(folder)
        with folder_in_the_making(folder) as made:
            for name, pixels in _bundled():
                # Pixels are hashed, because the bytes of a PNG file change with the version of zlib.
                digest.update(f"{name} {pixels.shape}".encode() + pixels.tobytes())
                Image.fromarray(pixels).save(made / name, compress_level=1)
            names = " ".join(sorted(path.name for path in made.iterdir()))
            text = json.dumps({"files": names, "contents": digest.hexdigest()})
            (made / _MARKER).write_text(text)
    return FoundAsset(folder, digest.hexdigest())


def _bundled() -> Iterator[tuple[str, Pixels]]:
    """Yields name and pixels ``[H, W, 3]`` of scikit-image's colour photographs."""
    try:
        data = importlib.import_module("skimage.data")
        for name in _PHOTOGRAPHS:
            loaded = getattr(data, name)()
            # The stereo pair comes with its disparities, which are no photograph.
            views = loaded[:2] if isinstance(loaded, tuple) else (loaded,)
            for number, pixels in enumerate(views):
                yield f"{name}-{number}.png", np.ascontiguousarray(pixels[..., :3], np.uint8)
    except (ImportError, AttributeError, OSError) as error:
        what = "The asset 'photographs' needs scikit-image's photographs, which could not be loaded"
        raise UserError(f'{what} ({error}): run pip install "ulsad-bench[demo]".') from error
