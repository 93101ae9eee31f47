"""What a method may leave behind in its process and on disk: watched, compared, put into sentences."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class WatchedState:
    """Settings of a process that the next run would inherit, by name."""

    values: Mapping[str, Any]

    def changes(self, later: WatchedState) -> list[str]:
        """Returns a sentence for each setting that differs later."""
        return [
            f"The method leaves {name} changed: {_change(was, later.values[name])}."
            for name, was in self.values.items()
            if later.values[name] != was
        ]


def process_state() -> WatchedState:
    """Returns this process's state; random generators are left out, the harness seeds them for every run."""
    return WatchedState(
        {
            "the working directory": str(Path.cwd()),
            "the environment variables": dict(os.environ),
            "the handler of SIGINT": signal.getsignal(signal.SIGINT),
            "sys.stdout": sys.stdout,
            "sys.stderr": sys.stderr,
            "sys.excepthook": sys.excepthook,
            "the handlers of the root logger": list(logging.getLogger().handlers),
            "the level of the root logger": logging.getLogger().level,
            "running threads": sorted(t.name for t in threading.enumerate()),
            "child processes": sorted(p.name for p in multiprocessing.active_children()),
            "NumPy's error handling": dict(np.geterr()),
            "torch's default dtype": torch.get_default_dtype(),
            "torch's default device": torch.get_default_device(),
            "torch's gradient mode": torch.is_grad_enabled(),
            "torch's anomaly detection": torch.is_anomaly_enabled(),
            "torch's number of threads": torch.get_num_threads(),
            "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "torch's float32 matmul precision": torch.get_float32_matmul_precision(),
            "cuDNN's benchmark mode": torch.backends.cudnn.benchmark,
            "cuDNN's use of TF32": torch.backends.cudnn.allow_tf32,
            "cuBLAS's use of TF32": torch.backends.cuda.matmul.allow_tf32,
        }
    )


def _change(was: object, now: object) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        return ", ".join(sorted(key for key in was | now if was.get(key) != now.get(key)))
    return f"{_short(was)} before, {_short(now)} after"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class FileWatch:
    """Sees what Python code opens in this process, from construction on (audit hooks cannot be removed).

    Args:
        allowed: writing below these folders is no breach.
    """

    def __init__(self, *allowed: Path) -> None:
        self._allowed = tuple(str(folder.resolve()) + os.sep for folder in allowed)
        data = os.environ.get("BENCH_DATA")
        self._data = str(Path(data).resolve()) + os.sep if data else ""
        self._written: dict[str, None] = {}
        self._read: dict[str, None] = {}
        self._fitting = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path = os.path.realpath(os.fsdecode(args[0]))
        mode, flags = args[1], args[2] or 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(set(mode or "") & set("wax+"))
        if writes and not path.startswith((*self._allowed, "/dev/", "/proc/")):
            self._written[path] = None
        if self._fitting and self._data and path.startswith(self._data):
            self._read[path] = None

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Watches the data folder within the block."""
        self._fitting = True
        try:
            yield
        finally:
            self._fitting = False

    def take(self) -> list[str]:
        """Returns the files written since the last call."""
        written = list(self._written)
        self._written.clear()
        return written

    def opened_data(self) -> str:
        """Returns the sentence for a dataset's file that ``fit`` opened, empty if there was none."""
        return f"fit opened {next(iter(self._read))} in the folder of datasets." if self._read else ""
