"""What a run may leave changed in its process: a table of settings, read before a run and put back after it.

A worker takes one run after the other, and the settings of one must not decide the numbers of the next.
Random generators are seeded for every run (:func:`harness.execution.devices.seed_everything`). What cannot be
put back, be it that there is no way or that it did not help, ends the worker: the next run gets a new one.
"""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

# Every run needs them, late; imported in a run they would be taken for a method's.
import scipy.optimize
import scipy.stats  # noqa: F401
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch.utils import deterministic

from harness.execution.replaced import Replaced

# What is put back, but decides only what is said: imports of libraries change it all the time.
_SPOKEN = ("warnings", "the root logger")
# Seconds that a thread or process of a run may take to end after it.
_ENDING = 1.0


@dataclass(frozen=True)
class Setting:
    """One thing that all code in a process shares.

    Attributes:
        name: for people.
        read: returns its present value, which must compare with others.
        write: puts a value back; ``None`` where there is no way.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None

    def now(self) -> Any:
        """Returns the present value, or why it cannot be told: PyTorch refuses where flags contradict."""
        try:
            return self.read()
        except (RuntimeError, OSError, ValueError, AttributeError, TypeError) as error:
            return f"cannot be told: {error}"


class ProcessState:
    """The settings of this process, from construction on."""

    def __init__(self) -> None:
        self._was = [(setting, setting.now()) for setting in settings()]
        self._replaced = Replaced()

    def restore(self) -> list[str]:
        """Puts back what has changed since; returns the names of what it cannot answer for.

        A library that the run has imported may have changed what was changed. It would not do so for the next
        run, which would have to: after that no process is as good as new.
        """
        found = self._replaced.restore()
        changed = [*found.put_back, *(setting.name for setting, was in self._was if setting.now() != was)]
        changed = [name for name in changed if not name.startswith(_SPOKEN)]
        # Twice: some flags can be set only once others are back.
        for _ in range(2):
            for setting, was in self._was:
                if setting.write is not None and setting.now() != was:
                    try:
                        setting.write(was)
                    except (RuntimeError, OSError, ValueError, AttributeError, TypeError) as error:
                        logging.getLogger(__name__).debug("%s: %s", setting.name, error)
        if found.imported and changed:
            return [*found.left, *changed]
        return [*found.left, *(setting.name for setting, was in self._was if setting.now() != was)]


def settings() -> Iterator[Setting]:
    """Yields the table."""
    yield from _of_torch()
    yield from _of_libraries()
    yield from _of_python()
    yield from _of_the_system()


def _of_torch() -> Iterator[Setting]:
    yield Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting("torch's default device", torch.get_default_device, _set_default_device)
    yield Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("torch's inference mode", torch.is_inference_mode_enabled)
    yield Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads)
    # It can be set once in a process.
    yield Setting("torch's number of threads between operations", torch.get_num_interop_threads)
    yield Setting(
        "torch's anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda was: torch.autograd.set_detect_anomaly(*was),
    )
    yield Setting(
        "torch's deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1]),
    )
    yield Setting(
        "torch's filling of new memory",
        lambda: getattr(deterministic, "fill_uninitialized_memory"),  # noqa: B009
        lambda was: setattr(deterministic, "fill_uninitialized_memory", was),
    )
    yield Setting("torch's flushing of denormal numbers", _flushes, torch.set_flush_denormal)
    for kind in ("cpu", "cuda"):
        yield Setting(
            f"torch's autocast on {kind}",
            lambda kind=kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)),  # type: ignore[misc]
            lambda was, kind=kind: _set_autocast(kind, *was),  # type: ignore[misc]
        )
    yield Setting(
        "torch's cache of autocast", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled
    )
    yield Setting("torch's modes", _modes)
    yield Setting(
        "torch's float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    )
    for place in _BACKENDS:
        *owners, name = place.split(".")
        owner: Any = torch.backends
        for part in owners:
            owner = getattr(owner, part, None)
        # Newer versions of PyTorch have more of them.
        if hasattr(owner, name):
            yield Setting(
                f"torch.backends.{place}",
                lambda owner=owner, name=name: getattr(owner, name),  # type: ignore[misc]
                lambda was, owner=owner, name=name: setattr(owner, name, was),  # type: ignore[misc]
            )
    for kind in ("flash", "mem_efficient", "math", "cudnn"):
        if hasattr(torch.backends.cuda, f"{kind}_sdp_enabled"):
            yield Setting(
                f"torch's {kind} attention",
                getattr(torch.backends.cuda, f"{kind}_sdp_enabled"),
                getattr(torch.backends.cuda, f"enable_{kind}_sdp"),
            )


_BACKENDS = (
    "fp32_precision",
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.benchmark_limit", "cudnn.deterministic"),
    *("cudnn.allow_tf32", "cudnn.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("cuda.matmul.allow_tf32", "cuda.matmul.fp32_precision", "cuda.matmul.allow_fp16_accumulation"),
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    *("mkldnn.enabled", "mkldnn.deterministic", "mkldnn.allow_tf32", "mkldnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("opt_einsum.enabled", "opt_einsum.strategy", "quantized.engine"),
)


def _of_libraries() -> Iterator[Setting]:
    yield Setting("NumPy's error handling", np.geterr, lambda was: np.seterr(**was))
    yield Setting("NumPy's handler of errors", np.geterrcall, np.seterrcall)
    yield Setting("NumPy's size of buffers", np.getbufsize, np.setbufsize)
    yield Setting("NumPy's printing", _numpy_printing, lambda was: np.set_printoptions(**was))
    yield Setting("NumPy's generator", np.random.mtrand.get_bit_generator, np.random.mtrand.set_bit_generator)
    yield Setting("OpenCV's number of threads", cv2.getNumThreads, cv2.setNumThreads)
    yield Setting("OpenCV's use of optimised code", cv2.useOptimized, cv2.setUseOptimized)
    for library in ThreadpoolController().lib_controllers:
        yield Setting(
            f"the number of threads of {Path(library.filepath).name}",
            library.get_num_threads,
            library.set_num_threads,
        )


def _of_python() -> Iterator[Setting]:
    yield Setting("warnings' filters", lambda: list(warnings.filters), _filter)
    yield Setting("the root logger's level", lambda: logging.root.level, logging.root.setLevel)
    for name in ("handlers", "filters"):
        yield _list(f"the root logger's {name}", logging.root, name)
    yield Setting("the root logger's disabled levels", lambda: logging.root.manager.disable, logging.disable)
    for name in ("path", "meta_path", "path_hooks"):
        yield _list(f"sys.{name}", sys, name)
    for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook", "argv"):
        yield Setting(
            f"sys.{name}",
            lambda name=name: getattr(sys, name),  # type: ignore[misc]
            lambda was, name=name: setattr(sys, name, was),  # type: ignore[misc]
        )
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Setting("the switch interval", sys.getswitchinterval, sys.setswitchinterval)
    yield Setting("the trace function", sys.gettrace, sys.settrace)
    yield Setting("the profile function", sys.getprofile, sys.setprofile)
    yield Setting("the collection of garbage", gc.isenabled, lambda was: gc.enable() if was else gc.disable())
    yield Setting(
        "the thresholds of collecting garbage", gc.get_threshold, lambda was: gc.set_threshold(*was)
    )
    yield Setting("the context of decimal numbers", _decimal, _set_decimal)
    yield Setting("the locale", lambda: locale.setlocale(locale.LC_ALL), _set_locale)
    yield Setting("the default timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout)
    yield Setting(
        "how processes are started",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda was: multiprocessing.set_start_method(was, force=True),
    )
    threads, children = _threads(), _children()
    yield Setting("running threads", lambda: _none_but(threads, _threads))
    yield Setting("child processes", lambda: _none_but(children, _children))


def _of_the_system() -> Iterator[Setting]:
    yield Setting("the working directory", os.getcwd, os.chdir)
    yield Setting("the environment variables", lambda: dict(os.environ), _set_environment)
    yield Setting("the umask", _umask, os.umask)
    for number in sorted(signal.valid_signals()):
        yield Setting(
            f"the handler of signal {number}",
            lambda number=number: signal.getsignal(number),  # type: ignore[misc]
            lambda was, number=number: signal.signal(number, was),  # type: ignore[misc]
        )
    if hasattr(signal, "setitimer"):
        yield Setting(
            "the alarm",
            lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
            lambda _: signal.setitimer(signal.ITIMER_REAL, 0),
        )
        yield Setting(
            "blocked signals",
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            lambda was: signal.pthread_sigmask(signal.SIG_SETMASK, was),
        )
        import resource

        for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_")):
            number = getattr(resource, name)
            yield Setting(
                f"the limit {name.removeprefix('RLIMIT_')}",
                lambda number=number: resource.getrlimit(number),  # type: ignore[misc]
                lambda was, number=number: resource.setrlimit(number, was),  # type: ignore[misc]
            )
    if hasattr(os, "sched_setaffinity"):
        yield Setting("the cores", lambda: os.sched_getaffinity(0), lambda was: os.sched_setaffinity(0, was))
    if hasattr(os, "getpriority"):
        yield Setting("the priority", lambda: os.getpriority(os.PRIO_PROCESS, 0))


def _list(name: str, owner: Any, field: str) -> Setting:
    """A list that others may hold too: the same one, with the same entries."""
    own = getattr(owner, field)

    def write(was: tuple[int, list[Any]]) -> None:
        own[:] = was[1]
        setattr(owner, field, own)

    return Setting(name, lambda: (id(getattr(owner, field)), list(getattr(owner, field))), write)


def _set_autocast(kind: str, enabled: bool, dtype: torch.dtype) -> None:
    torch.set_autocast_enabled(kind, enabled)
    torch.set_autocast_dtype(kind, dtype)


def _set_default_device(was: torch.device) -> None:
    torch.set_default_device(None)
    if torch.get_default_device() != was:
        torch.set_default_device(was)


def _flushes() -> bool:
    # Python's own numbers are subject to it; the smaller factor is no constant to be folded.
    return float("1e-310") * 1.0 == 0.0


def _modes() -> tuple[int, int]:
    """How many modes change what every function of PyTorch does, but for the default device's."""
    device = torch.get_default_device() != torch.device("cpu")
    return torch._C._len_torch_function_stack() - device, torch._C._len_torch_dispatch_stack()


def _numpy_printing() -> dict[str, Any]:
    return {name: value for name, value in np.get_printoptions().items() if name != "override_repr"}


def _filter(was: list[Any]) -> None:
    # Forgets what it knows by the old filters.
    warnings.resetwarnings()
    warnings.filters[:] = was  # type: ignore[index]


def _decimal() -> dict[str, Any]:
    context = decimal.getcontext()
    return {
        name: getattr(context, name) for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    }


def _set_decimal(was: dict[str, Any]) -> None:
    for name, value in was.items():
        setattr(decimal.getcontext(), name, value)


def _set_locale(was: str) -> None:
    locale.setlocale(locale.LC_ALL, was)


def _set_environment(was: dict[str, str]) -> None:
    for name in os.environ.keys() - was.keys():
        del os.environ[name]
    os.environ.update(was)
    if hasattr(time, "tzset"):
        time.tzset()


def _umask() -> int:
    # It can be read only by setting it.
    was = os.umask(0o077)
    os.umask(was)
    return was


def _threads() -> frozenset[str]:
    return frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate())


def _children() -> frozenset[str]:
    return frozenset(f"{child.pid}" for child in psutil.Process().children())


def _none_but(before: frozenset[str], look: Callable[[], frozenset[str]]) -> tuple[str, ...]:
    """What there is that was not there before, once it has had the time to end."""
    until = time.monotonic() + _ENDING
    while (new := look() - before) and time.monotonic() < until:
        time.sleep(0.02)
    return tuple(sorted(new))
