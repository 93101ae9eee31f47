"""Results as one file to publish, and back again, byte for byte.

A ``.tar.gz`` of the records, in the order of their paths, without times, owners or modes: the same records
give the same archive. With artefacts what is kept beside them comes along.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from harness.common.archives import Limits, unpack
from harness.common.errors import UserError
from harness.common.files import is_plain_file, temporary_name
from harness.results.artefacts import all_pictures, kept_paths
from harness.results.merge import Merged, merge
from harness.results.store import Folder, record_names

_FOLDER = "results"


def export_archive(results: Path, archive: Path, artefacts: bool) -> int:
    """Writes an archive that is there whole or not at all; returns how many records it holds.

    Raises:
        UserError: there is no such folder or no record in it, or the archive cannot be written.
    """
    folder = Folder(results)
    names = [name for name in record_names(results) if not (results / name).is_symlink()]
    if not names:
        raise UserError(f"There are no records in {results}: there is nothing to export.")
    temporary = archive.parent / temporary_name(archive.name)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary.open("wb") as file,
            # Without a name and a time, the same content gives the same bytes.
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in sorted([*names, *(_artefacts(results, names) if artefacts else ())]):
                if name.endswith(".json"):
                    content = folder.content(name)
                    _add(tar, io.BytesIO(content), len(content), f"{_FOLDER}/{name}")
                    continue
                with (results / name).open("rb") as beside:
                    _add(tar, beside, os.fstat(beside.fileno()).st_size, f"{_FOLDER}/{name}")
        temporary.replace(archive)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{archive} cannot be written ({reason}): choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(names)


def import_archive(archive: Path, results: Path) -> Merged:
    """Merges the records of an archive into a results folder, see :func:`harness.results.merge.merge`.

    Raises:
        UserError: the archive is missing, damaged, dangerous or holds no results, or the folder cannot be
            written.
    """
    if not archive.is_file():
        raise UserError(f"There is no archive {archive}.")
    size = archive.stat().st_size
    # Records pack to a tenth; what unpacks to more than the hundredfold is a bomb.
    limits = Limits(files=1000 + size // 32, bytes=64 * 1024**2 + 100 * size)
    try:
        results.parent.mkdir(parents=True, exist_ok=True)
        # Beside the results: the disk of temporary files may be too small.
        with tempfile.TemporaryDirectory(dir=results.parent, prefix=f"{results.name}.") as folder:
            unpack(archive, Path(folder), limits)
            unpacked = Path(folder) / _FOLDER
            if not unpacked.is_dir():
                raise UserError(f"The archive {archive} was not made by `bench results export`.")
            return merge([unpacked], results)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{results.parent} cannot be written ({reason}): give another --results.") from error


def _artefacts(results: Path, names: Sequence[str]) -> Iterator[str]:
    """Yields where what is kept beside records lies, within the folder."""
    beside = [path for name in names for path in kept_paths(results / name).values()]
    found = [path for path in [*beside, *all_pictures(results)] if is_plain_file(path)]
    yield from (path.relative_to(results).as_posix() for path in found)


def _add(tar: tarfile.TarFile, file: IO[bytes], size: int, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, file)
