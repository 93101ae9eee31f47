"""Fixtures: an HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """Files by path, and how each is served.

    Fault: ``cut`` (half of what is told), ``reset`` (half, then the connection is torn), ``long`` (more
    than is told), ``wrong`` (other bytes), ``ignore-range``, ``other-range``, ``silent-length`` (tells no
    length), or a status such as ``404``, ``429``, ``429:Retry-After``. Etags are what a HEAD request is told.
    With ``redirects``, a file is sent from another address than is asked for, as hubs send large files.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""
    ranges: list[str] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    url: str = ""
    redirects: bool = False


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            """As the Hugging Face hub: the checksum, and a redirection."""
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("X-Linked-Etag", f'"{state.etags.get(self.path.lstrip("/"), "")}"')
            self.end_headers()

        def do_GET(self) -> None:
            fault = state.fault
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            status, _, after = fault.partition(":")
            content = state.files.get(self.path.lstrip("/").removeprefix("elsewhere/"))
            if state.redirects and content is not None and not self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", f"{state.url}/elsewhere{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if status.isdigit() or content is None:
                self.send_response(int(status) if status.isdigit() else 404)
                if after:
                    self.send_header("Retry-After", after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "wrong":
                content = bytes(byte ^ 1 for byte in content)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "ignore-range" else 0
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = content[start:]
            self.send_response(206 if asked and fault != "ignore-range" else 200)
            if asked and fault != "ignore-range":
                told = start + (fault == "other-range")
                self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
            if fault != "silent-length":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "long":
                body += b"more"
            self.wfile.write(body[: len(body) // 2] if fault in ("cut", "reset") else body)
            self.wfile.flush()
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{running.server_port}"
    try:
        yield state
    finally:
        running.shutdown()
        running.server_close()
