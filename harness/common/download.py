"""One file over HTTP(S): resumable, checked by its SHA-256 sum, and never half-written under its name.

What has come of a broken-off download stays as ``<name>.part`` and the next call goes on from there, if the
checksum is known that will tell whether both halves belong together. Each process fills a file of its own,
and takes over a part by renaming it, which only one process can do; so several may download at once.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from harness.common.errors import UserError
from harness.common.files import claim_leftover, temporary_name

# Told how many bytes have come, and how many there will be (None where the server does not say).
DownloadProgress = Callable[[int, int | None], None]
# Shows the progress of what has a label.
Bar = Callable[[str], AbstractContextManager[DownloadProgress]]

_CHUNK = 1 << 20
_TIMEOUT = 30
_STATUS = {
    401: "asks for a login",
    403: "refuses the file (403 forbidden)",
    404: "does not have the file (404 not found)",
    410: "does not have the file any more (410 gone)",
}


@dataclass(frozen=True)
class Remote:
    """A file elsewhere.

    Attributes:
        url: ``http`` or ``https`` address.
        sha256: checksum of its bytes, or its first digits where only those are published; empty where
            none is.
        max_bytes: more than this is refused; ``None`` for no limit.
    """

    url: str
    sha256: str = ""
    max_bytes: int | None = None

    def agrees(self, sha256: str) -> bool:
        """Returns whether a checksum is the file's, as far as that is known."""
        return sha256.startswith(self.sha256)


class _SpoiltError(UserError):
    """What has come is not the beginning of the file, and is of no use."""


def download(remote: Remote, target: Path, progress: DownloadProgress | None = None) -> str:
    """Downloads a file, unless it is there already, and returns its SHA-256 sum.

    Raises:
        UserError: the file cannot be had, or is not what it should be; the sentence names the address and
            where the file may be put by hand. ``target`` then does not exist.
    """
    # Another process that unpacked it may take it away at any moment.
    with suppress(FileNotFoundError):
        return _verified(remote, target)
    own = target.parent / temporary_name(target.name)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if remote.sha256:
            claim_leftover(part, own)
        sha256 = _Transfer(remote, target, own, progress or (lambda *_: None)).run()
        own.replace(target)
    except _SpoiltError:
        own.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise _disk(remote, target, error) from error
    finally:
        # Also after Ctrl-C; a part of no known checksum could not be told from one of another file.
        if own.exists():
            own.replace(part) if remote.sha256 and own.stat().st_size else own.unlink()
    return sha256


def _verified(remote: Remote, target: Path) -> str:
    with target.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not remote.agrees(sha256):
        raise UserError(
            f"{target} is not the file of {remote.url} (its SHA-256 sum is {sha256[:12]}…, not "
            f"{remote.sha256[:12]}…): remove it, then run the same command again."
        )
    return sha256


class _Transfer:
    """One download into a file of one's own."""

    def __init__(self, remote: Remote, target: Path, own: Path, progress: DownloadProgress) -> None:
        self.remote, self.target, self.own, self.progress = remote, target, own, progress
        self.digest = hashlib.sha256()
        self.done = 0

    def run(self) -> str:
        self._recount()
        known = self.done and self.remote.sha256
        if not (known and self.remote.agrees(self.digest.hexdigest())):
            self._fetch()
        sha256 = self.digest.hexdigest()
        if not self.remote.agrees(sha256):
            raise self._spoilt(
                f"has another SHA-256 sum ({sha256[:12]}…) than is known for it ({self.remote.sha256[:12]}…)"
            )
        return sha256

    def _recount(self) -> None:
        """Hashes what an earlier download left."""
        if self.own.exists():
            with self.own.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self.digest.update(chunk)
                    self.done += len(chunk)

    def _fetch(self) -> None:
        response = self._open(self.done)
        if self.done and response.status != 206:
            # The server knows no Range, or the part is longer than its file: from the first byte.
            self.digest, self.done = hashlib.sha256(), 0
            if response.status == 416:
                response.close()
                response = self._open(0)
        with response:
            total = self._total(response)
            with self.own.open("ab" if self.done else "wb") as file:
                self._copy(response, file, total)

    def _open(self, start: int) -> HTTPResponse:
        if urlsplit(self.remote.url).scheme not in ("http", "https"):
            raise self._failed("is no http or https address")
        headers = {"User-Agent": "ulsad-bench", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            request = Request(self.remote.url, headers=headers)  # noqa: S310 - the scheme is checked above
            response: HTTPResponse = urlopen(request, timeout=_TIMEOUT)  # noqa: S310
            return response
        except HTTPError as error:
            if error.code == 416 and start:
                return error  # type: ignore[return-value]
            raise self._failed(_refusal(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(_unreachable(error, self.remote.url)) from error

    def _total(self, response: HTTPResponse) -> int | None:
        """Returns how long the whole file is by the server's word."""
        told = response.headers.get("Content-Length", "")
        total = self.done + int(told) if told.isdigit() else None
        if self.done:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != self.done:
                raise self._spoilt("was answered with another range than was asked for")
            total = int(span[3]) if span[3] != "*" else total
        if total is not None:
            self._check_length(total)
            free = shutil.disk_usage(self.own.parent).free
            if total - self.done > free:
                raise self._failed(
                    f"is {_size(total)} long, but only {_size(free)} are free on the disk of "
                    f"{self.target.parent}",
                    "free space, then run the same command again",
                )
        return total

    def _check_length(self, length: int) -> None:
        if self.remote.max_bytes is not None and length > self.remote.max_bytes:
            raise self._spoilt(
                f"is longer ({_size(length)}) than the {_size(self.remote.max_bytes)} it may be"
            )

    def _copy(self, response: HTTPResponse, file: Any, total: int | None) -> None:
        if response.length is not None:
            response.length += 1  # so that a body longer than told is seen
        broken: Exception | None = None
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                broken = error
                break
            if not chunk:
                break
            file.write(chunk)
            self.digest.update(chunk)
            self.done += len(chunk)
            self._check_length(self.done)
            self.progress(self.done, total)
        if total is not None and self.done > total:
            raise self._spoilt(f"is longer than the server told ({total} bytes)")
        if (total is None and broken) or (total is not None and self.done < total):
            of = f" of {_size(total)}" if total is not None else ""
            reason = f" ({_reason(broken)})" if broken else ""
            raise self._failed(
                f"was broken off after {_size(self.done)}{of}{reason}",
                "run the same command again" + (", it goes on from there" if self.remote.sha256 else ""),
            ) from broken

    def _failed(self, what: str, otherwise: str = "try again later") -> UserError:
        return UserError(_sentence(self.remote, self.target, what, otherwise))

    def _spoilt(self, what: str) -> UserError:
        otherwise = "what came was removed; run the same command again"
        return _SpoiltError(_sentence(self.remote, self.target, what, otherwise))


def _sentence(remote: Remote, target: Path, what: str, otherwise: str) -> str:
    return f"The download {remote.url} {what}: {otherwise}, or put the file by hand as {target}."


def _refusal(error: HTTPError) -> str:
    server = f"failed: {urlsplit(error.url).hostname}"
    if error.code == 429:
        after = str(error.headers.get("Retry-After") or "").strip()
        wait = (
            f"; it asks to wait {after + ' seconds' if after.isdigit() else 'until ' + after}"
            if after
            else ""
        )
        return f"{server} has had too many requests (429){wait}"
    return f"{server} {_STATUS.get(error.code, f'answered {error.code} {error.reason}'.rstrip())}"


def _unreachable(error: Exception, url: str) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, socket.gaierror):
        return f"failed: there is no address for {urlsplit(url).hostname} (no internet, or a wrong name)"
    if isinstance(cause, TimeoutError):
        return f"failed: {urlsplit(url).hostname} did not answer within {_TIMEOUT} seconds"
    return f"failed: {urlsplit(url).hostname} cannot be reached ({_reason(cause)})"


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _disk(remote: Remote, target: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"stopped: the disk of {target.parent} is full"
        return UserError(_sentence(remote, target, what, "free space, then run the same command again"))
    what = f"cannot be written to {target.parent} ({_reason(error)})"
    return UserError(_sentence(remote, target, what, "choose another folder"))


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count} bytes"
