"""From a dataset card to a dataset on disk: download, unpack, and leave the layout that the card expects."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.common.archives import Limits, check_links, unpack, writing_to
from harness.common.download import Bar, DownloadProgress, Remote, download
from harness.common.errors import UserError
from harness.common.files import folder_in_the_making, remove, remove_leftovers
from harness.data.card import Card
from harness.data.samples import find_images

_DEPTH = 2


def present_folder(card: Card, data_root: Path) -> Path | None:
    """Returns the folder of a dataset below the data root, ``None`` if there is none."""
    return next((data_root / name for name in card.folders if (data_root / name).is_dir()), None)


def fetch_dataset(card: Card, data_root: Path, bar: Bar) -> Path:
    """Downloads and unpacks a dataset, unless its folder is there; returns the folder.

    An archive that lies in the data root under the last part of its address is not downloaded; one that has
    been downloaded is removed after unpacking.

    Raises:
        UserError: the card names no archive, or an archive cannot be had, is not what it should be, or does
            not hold the images that the card describes. There is no folder of the dataset then.
    """
    if (folder := present_folder(card, data_root)) is not None:
        return folder
    if not card.archives:
        raise UserError(f"Dataset '{card.name}' cannot be fetched by a command. {by_hand(card, data_root)}")
    target = data_root / card.folders[0]
    downloaded = []
    for archive in card.archives:
        path = data_root / archive.file_name
        if not path.exists():
            downloaded.append(path)
        with bar(f"downloading {archive.file_name}") as progress:
            download(Remote(archive.url, archive.sha256, archive.max_bytes), path, progress)
    try:
        with writing_to(data_root):
            _unpack(card, data_root, target, bar)
    except UserError:
        if not target.is_dir():  # else another process was faster, and took the archives away
            raise
    for path in downloaded:
        path.unlink(missing_ok=True)
    return target


def _unpack(card: Card, data_root: Path, target: Path, bar: Bar) -> None:
    remove_leftovers(data_root)
    with folder_in_the_making(target) as made:
        for number, archive in enumerate(card.archives):
            path, inside = data_root / archive.file_name, made / f".archive-{number}"
            inside.mkdir()
            limits = Limits(archive.max_files, archive.max_bytes)
            with bar(f"unpacking {archive.file_name}") as progress:
                unpack(path, inside, limits, partial(_unpacked, progress))
            _move_up(card, path, inside, made)


def _unpacked(progress: DownloadProgress, done: int) -> None:
    progress(done, None)


def by_hand(card: Card, data_root: Path | None) -> str:
    """Returns the card's words on how to get the data by hand, with the data root put in."""
    root = str(data_root) if data_root is not None else "<data root>"
    return card.note.replace("<data root>", root)


def _move_up(card: Card, archive: Path, inside: Path, made: Path) -> None:
    """Moves what an archive holds into the dataset's folder, without folders around it."""
    holder = next((folder for folder in _folders(inside, _DEPTH) if _holds(card, folder)), None)
    if holder is None:
        top = ", ".join(sorted(path.name for path in inside.iterdir())[:5]) or "nothing"
        raise UserError(
            f"The archive {archive} does not hold the images of card '{card.name}' (it holds {top}): "
            f"remove it, and get the data from {card.homepage}."
        )
    # A licence beside the folder of images comes along.
    beside = [path for path in inside.iterdir() if path.is_file() and holder != inside]
    for path in (*holder.iterdir(), *beside):
        if (made / path.name).exists():
            raise UserError(
                f"{path.name} comes in more than one place of the archives of card '{card.name}'."
            )
        path.rename(made / path.name)
    remove(inside)
    check_links(archive, made, (path for path in made.rglob("*") if path.is_symlink()))


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yields a folder, then those in it, then those in them."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = sorted(path for parent in level for path in parent.iterdir() if path.is_dir())


def _holds(card: Card, folder: Path) -> bool:
    if card.layout.csv is not None:
        return (folder / card.layout.csv).is_file()
    return bool(find_images(folder, card.layout.train, {}))
