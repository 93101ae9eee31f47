"""The contract test: whether a method keeps to what :class:`harness.method.Method` asks of it.

The method runs in processes of its own (:mod:`harness.checks.contract.steps`), on small synthetic images and
with a short training, so that a crash or a hang of the method is one more finding. Every check ends in at
least one :class:`ContractFinding`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from harness.common.defaults import TRAINING_LENGTHS
from harness.common.files import cache_dir
from harness.common.places import Places
from harness.execution.devices import find_device
from harness.planning.plan import Options, choose
from harness.registry.configuration import check_needs, configure_methods
from harness.registry.methods import load_method
from harness.registry.names import parse_name
from harness.registry.weights import Weights
from harness.spec.suite import Suite

StepState = Literal["passed", "breach", "not applicable", "not run"]

CHECKS: Mapping[str, str] = {
    "runs": "fits and predicts",
    "shapes and types": "score float32 [B], map float32 [B, H, W]",
    "finite": "scores and maps are finite",
    "epochs": "on_epoch is told of every epoch, and predict works there",
    "test data": "fit sees no test image and opens no file of the datasets",
    "same seed": "the same seed gives the same scores, bit by bit, in one process and in another",
    "different seed": "another seed gives other scores, or it is said that it does not",
    "batch size": "scores do not depend on the size of the test batch (1e-5)",
    "order": "scores do not depend on the order of the test images (1e-5)",
    "state": "state_dict, saved and loaded in a new process, gives equal scores",
    "files": "nothing is written outside Setup.scratch",
    "prints": "nothing is printed to stdout or stderr",
    "process": "no setting of the process is left changed",
    "GPU memory": "GPU memory is released with the method",
    "Ctrl-C": "fit ends within 2 s of Ctrl-C",
    "grayscale": "images of one channel and odd sides",
    "image size": "another image size, odd where the method allows it",
    "single image": "a single training image gives a result or one clear sentence",
}

# What a step's failure says about which check.
_OWNERS: Mapping[str, str] = {
    "fit": "runs",
    "again": "same seed",
    "fresh": "same seed",
    "seed": "different seed",
    "leave": "process",
    "reload": "state",
    "gray": "grayscale",
    "size": "image size",
    "single": "single image",
    "interrupt": "Ctrl-C",
}
_FIRST = ("fit", "again", "seed", "leave")
_SECOND = ("reload", "fresh", "gray", "size", "single", "interrupt")
_SHORT = 2
# Seconds; one call of linear algebra, which cannot be interrupted, may take some.
PROMPT = 10.0
INTERRUPTED = 130
_LIBRARY_NOISE = "Matplotlib is building the font cache"


@dataclass(frozen=True)
class ContractFinding:
    """What one check found.

    Attributes:
        check: key of ``CHECKS``.
        state: ``not run`` where an earlier failure left nothing to check.
        sentence: the breach, or why the check does not apply, or a note; may be empty.
    """

    check: str
    state: StepState
    sentence: str = ""

    def line(self) -> str:
        """One line for people."""
        return f"{self.state:15} {self.check:17} {self.sentence or CHECKS[self.check]}"


@dataclass(frozen=True)
class MethodCase:
    """A method that can be tested here, with its configuration and weights.

    Attributes:
        base: base of the method's name.
        label: the name for people.
        image_size: side of the synthetic images in pixels.
        odd_size: the other image size that is tried.
        assets: folder of each asset that the method needs.
        timeout: seconds that one step may take.
    """

    base: str
    label: str
    config: Mapping[str, Any]
    weights: Mapping[str, Weights]
    image_size: int
    odd_size: int
    device: str
    assets: Mapping[str, Path] = field(default_factory=dict)
    timeout: float = 300.0


def prepare_case(  # noqa: PLR0913 - options of a command
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    backbone: str = "",
    pretrained: bool = False,
    image_size: int = 64,
    device: str = "cpu",
    timeout: float = 300.0,
) -> MethodCase:
    """Finds a method and all that it needs.

    Args:
        name: ``dfr``, ``ulsad[lambda_l=0]``, ``path/to/file.py:MyMethod``.
        settings: hyper-parameters; training lengths (``epochs``, ``steps``, …) are 2 unless given here or in
            brackets.
        backbone: timm name for the method's ``backbone``, if it has one; empty for its own.
        pretrained: whether backbones get their pretrained weights or random ones.
        image_size: side of the images in pixels, rounded up to what the method can take.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        timeout: seconds that one step may take.

    Raises:
        UserError: the method cannot run here, with what is missing.
    """
    parsed = parse_name(name)
    method = load_method(parsed.base)
    lengths = {key: _SHORT for key in TRAINING_LENGTHS if key in method.Config.model_fields}
    given = {parsed.short(): {**lengths, **(settings or {})}}
    suite = Suite(title="", methods=[name], datasets=[], backbone=backbone, set=given)
    options = Options(
        devices=(find_device(device),),
        places=Places(cache_dir(), results=Path()),
        backbone_weights="pretrained" if pretrained else "none",
    )
    (one,) = configure_methods(suite)
    step = one.needs.image_size_multiple
    steps = -(-max(image_size, one.needs.image_size_least) // step)
    check_needs(one, suite.model_copy(update={"image_size": steps * step}))
    chosen = choose(one, options)
    return MethodCase(
        base=one.name.base,
        label=one.label,
        config=one.config.model_dump(mode="json"),
        weights=chosen.weights,
        image_size=steps * step,
        odd_size=(steps + 1 + steps % 2) * step,
        device=options.devices[0],
        assets={name: found.folder for name, found in chosen.assets.items()},
        timeout=timeout,
    )


def check_method(case: MethodCase) -> list[ContractFinding]:
    """Runs every check and returns the findings in the order of ``CHECKS``, at least one for each."""
    with tempfile.TemporaryDirectory(prefix="bench-contract-") as name:
        folder = Path(name)
        found = [*_session(case, folder, _FIRST)]
        if (folder / "job" / "scores.safetensors").exists():
            found += _session(case, folder, _SECOND)
    return _ordered(found)


def _ordered(found: Sequence[ContractFinding]) -> list[ContractFinding]:
    ordered: list[ContractFinding] = []
    # A fit that fails in the first step fails in later ones alike: it is said once.
    fatal = {f.sentence for f in found if f.check == "runs" and f.state == "breach"}
    found = [f for f in found if f.check == "runs" or not f.sentence or f.sentence not in fatal]
    for name in CHECKS:
        of = list(dict.fromkeys(f for f in found if f.check == name))
        breaches = [f for f in of if f.state == "breach"]
        others = sorted(of, key=lambda f: (f.state == "passed", not f.sentence))[:1]
        nothing = [ContractFinding(name, "not run", "the method came to no result to check")]
        ordered += breaches or others or nothing
    return ordered


def _session(case: MethodCase, folder: Path, steps: Sequence[str]) -> list[ContractFinding]:
    """Runs steps in a worker; where one kills or blocks it, the rest runs in another."""
    found: list[ContractFinding] = []
    left = list(steps)
    while left:
        worker = _Worker(case, folder, left)
        try:
            died = worker.wait(case.timeout)
            if worker.fits_on():
                found.append(worker.interrupt())
                left, died = [], ""
        finally:
            worker.kill()
        lines = worker.lines()
        found += [*_read(lines), *worker.traces()]
        ended = {line["end"] for line in lines if "end" in line}
        left = [step for step in left if step not in ended]
        if left and died:
            found.append(ContractFinding(_OWNERS[left[0]], "breach", f"In step '{left[0]}' {died}."))
            left = left[1:]
    return found


def _read(lines: Sequence[Mapping[str, str]]) -> list[ContractFinding]:
    found = []
    for line in lines:
        for kind, state in (("failed", "breach"), ("skipped", "not run")):
            if kind in line and "check" not in line:
                found.append(ContractFinding(_OWNERS[line[kind]], state, line["sentence"]))  # type: ignore[arg-type]
        if "check" in line:
            found.append(_finding(line))
    return found


def _finding(line: Mapping[str, str]) -> ContractFinding:
    if line["breach"]:
        return ContractFinding(line["check"], "breach", line["breach"])
    if line["skipped"]:
        return ContractFinding(line["check"], "not applicable", line["skipped"])
    return ContractFinding(line["check"], "passed", line["note"])


class _Worker:
    """A worker process with fresh folders, whatever it prints and writes caught."""

    def __init__(self, case: MethodCase, folder: Path, steps: Sequence[str]) -> None:
        self.job = folder / "job"
        self._watched = {name: folder / name for name in ("cwd", "home", "tmp")}
        for path in (self.job, folder / "data", _library_caches(), *self._watched.values()):
            path.mkdir(parents=True, exist_ok=True)
        for name in ("findings.jsonl", "fitting"):
            (self.job / name).unlink(missing_ok=True)
        self._printed = {name: self.job / name for name in ("stdout", "stderr")}
        write_job(case, self.job, steps)
        with self._printed["stdout"].open("wb") as out, self._printed["stderr"].open("wb") as err:
            command = [sys.executable, "-m", "harness.checks.contract.steps", str(self.job / "job.json")]
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                cwd=self._watched["cwd"],
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self, timeout: float) -> str:
        """Waits for the end, or for the fit that Ctrl-C is to end; returns how the process died, if it did.

        Args:
            timeout: seconds without a finding after which the method counts as hanging.
        """
        last, since = -1, time.monotonic()
        while self.process.poll() is None:
            if self.fits_on():
                return ""
            size = len(self.lines())
            if size != last:
                last, since = size, time.monotonic()
            if time.monotonic() - since > timeout:
                return f"the method took longer than {timeout:g} s"
            time.sleep(0.05)
        return _death(self.process.returncode)

    def fits_on(self) -> bool:
        """Whether the process is in the step that fits until it is interrupted."""
        return (self.job / "fitting").exists() and self.process.poll() is None

    def interrupt(self) -> ContractFinding:
        """Sends Ctrl-C in the middle of ``fit``."""
        # Well into fit, past what is set up at its start.
        time.sleep(0.5)
        if self.process.poll() is not None:
            return ContractFinding("Ctrl-C", "breach", "The process ended before Ctrl-C.")
        before, computed = _cpu_seconds(self.process.pid), 0.0
        sent = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        while (code := self.process.poll()) is None:
            if time.monotonic() - sent > 2 * PROMPT:
                return ContractFinding(
                    "Ctrl-C", "breach", f"fit went on for more than {2 * PROMPT:g} s after Ctrl-C."
                )
            computed = max(computed, _cpu_seconds(self.process.pid) - before)
            time.sleep(0.02)
        took = time.monotonic() - sent
        # On a busy machine the clock goes on while the process waits for a core.
        if min(took, computed) > PROMPT:
            return ContractFinding("Ctrl-C", "breach", f"fit ended only {took:.1f} s after Ctrl-C.")
        if code != INTERRUPTED:
            return ContractFinding("Ctrl-C", "breach", "Ctrl-C in fit did not arrive as KeyboardInterrupt.")
        return ContractFinding("Ctrl-C", "passed", f"ended after {took:.2f} s")

    def lines(self) -> list[dict[str, str]]:
        """Returns the findings so far; a line half-written is left out."""
        path = self.job / "findings.jsonl"
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def traces(self) -> list[ContractFinding]:
        """Returns findings on what was printed and written, and clears it away."""
        found = []
        for name, path in self._printed.items():
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            text = "\n".join(line for line in lines if not line.startswith(_LIBRARY_NOISE))
            crashed = self.process.returncode not in (0, INTERRUPTED) and name == "stderr"
            line = text.splitlines()[0][:120] if text else ""
            breach = text and not crashed
            sentence = f"The method printed to {name}: {line!r}." if breach else ""
            found.append(ContractFinding("prints", "breach" if breach else "passed", sentence))
        for name, folder in self._watched.items():
            for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
                place = {"cwd": "the working directory", "home": "the home", "tmp": "the temporary folder"}
                sentence = f"The method left {path.relative_to(folder)} in {place[name]}."
                found.append(ContractFinding("files", "breach", sentence))
            shutil.rmtree(folder)
            folder.mkdir()
        return [*found, ContractFinding("files", "passed")]

    def kill(self) -> None:
        """Ends the process and its children, however they are."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        # It has just ended.
        return 0.0
    return float(times.user + times.system)


def _death(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"the method's process was ended by {signal.Signals(-code).name}"
    return f"the method's process ended by itself with exit code {code}"


def _library_caches() -> Path:
    return cache_dir() / "libraries"


def _environment(folder: Path) -> dict[str, str]:
    libraries = str(_library_caches())
    return os.environ | {
        "HOME": str(folder / "home"),
        "USERPROFILE": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        "BENCH_DATA": str(folder / "data"),
        # Libraries' own caches, made at their first import, are not the method's doing.
        "MPLCONFIGDIR": libraries,
        "NUMBA_CACHE_DIR": libraries,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
    }


def write_job(case: MethodCase, folder: Path, steps: Sequence[str]) -> None:
    """Writes what a worker is to do to ``job.json``."""
    values = asdict(case) | {"folder": folder, "steps": list(steps), "method": case.base}
    del values["base"], values["timeout"]
    (folder / "job.json").write_text(json.dumps(values, default=str), encoding="utf-8")
