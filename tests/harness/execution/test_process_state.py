"""No run leaves anything in its process that another could notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.common.places import Places
from harness.execution.executors.local import run_all
from harness.planning.plan import Options, make_plan
from harness.spec.record import RunRecord
from harness.spec.suite import Suite
from tests.harness.places import inside, make_place

# By name: what a method does to its process. Each line is one method's `fit`.
POLLUTIONS = {
    "dtype": "torch.set_default_dtype(torch.float64)",
    "device": "torch.set_default_device('meta')",
    "threads": "torch.set_num_threads(7)",
    "gradients": "torch.set_grad_enabled(False)",
    "autocast": "torch.autocast('cpu', torch.bfloat16).__enter__()",
    "precision": "torch.set_float32_matmul_precision('medium')",
    "memory": "torch.utils.deterministic.fill_uninitialized_memory = False",
    "cudnn": "torch.backends.cudnn.enabled = False",
    "attention": "torch.backends.cuda.enable_math_sdp(False)",
    "denormals": "torch.set_flush_denormal(True)",
    "hooks": "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o + 1)",
    "function": "torch.relu = lambda x: x",
    "tensor": "torch.Tensor.mean = lambda *a, **k: torch.Tensor.amax(*a, **k)",
    "inherited": "torch.Tensor.__sub__ = lambda a, b: a",
    "default": "torch.nn.functional.normalize.__defaults__ = (1.0, 1, 1e-12, None)",
    "numpy": "np.median = lambda *a, **k: 3.0",
    "constant": "math.pi = 3",
    "builtin": "np.linalg.abs = torch.nn.functional.len = lambda x: 1",
    "generator": "np.random.set_bit_generator(np.random.PCG64(1))",
    "errors": "np.seterr(all='ignore')",
    "random": "random.random = lambda: 0.5",
    "folder": "os.chdir('/')",
    "variable": "os.environ['BENCH_PROBE'] = '1'",
    "umask": "os.umask(0o077)",
    "signal": "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "alarm": "signal.setitimer(signal.ITIMER_REAL, 1000)",
    "warnings": "warnings.simplefilter('error')",
    "logging": "logging.disable(logging.CRITICAL)",
    "handler": "logging.getLogger().addHandler(logging.NullHandler())",
    "path": "sys.path.insert(0, '/elsewhere')",
    "shadow": "sys.modules['bench_helper'] = random",
    "module": "sys.modules['colorsys'] = random",
    "recursion": "sys.setrecursionlimit(5000)",
    "decimal": "decimal.getcontext().prec = 3",
    "opencv": "cv2.setNumThreads(5)",
    "limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (512, resource.getrlimit(7)[1]))",
    "harness": "from harness.metrics import exact; exact.image_metrics = lambda *_: {'image_auroc': 1.0}",
    # Last: it cannot be put back.
    "thread": "threading.Thread(target=lambda: [time.sleep(1) for _ in iter(int, 1)], daemon=True).start()",
}
METHODS = '''
import decimal, hashlib, importlib, logging, math, os, random, resource, signal, sys, threading, time
import warnings

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from harness import Citation, Epoch, Hyperparameters, Method, Prediction


class Dirty(Method):
    """Leaves one thing changed."""

    version = 1
    citation = Citation(title="Dirty", authors="Person, A.", year=2026, licence="MIT")

    class Config(Hyperparameters):
        what: str = ""

    def fit(self, data, on_epoch):
        exec(POLLUTIONS[self.config.what], globals())

    def predict(self, images):
        maps = images.to(torch.float32)[:, 0] * 0 + torch.arange(images.shape[-1], device="cpu")
        return Prediction(maps.sum(dim=(1, 2)), maps)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def _umask():
    was = os.umask(0)
    os.umask(was)
    return was


def probes():
    """What a method may notice, by name."""
    denormal = float("1e-310") * 1.0
    layer = torch.nn.Linear(2, 2, bias=False)
    yield from {
        "dtype": torch.zeros(1).dtype,
        "device": torch.zeros(1).device,
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "autocast": (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
        "precision": torch.get_float32_matmul_precision(),
        "memory": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": torch.backends.cudnn.enabled,
        "attention": torch.backends.cuda.math_sdp_enabled(),
        "denormals": denormal,
        "hooks": layer(torch.zeros(1, 2)).tolist(),
        "function": torch.relu(torch.tensor(-1.0)).item(),
        "tensor": torch.tensor([1.0, 2.0]).mean().item(),
        "inherited": (torch.tensor(1.0) - torch.tensor(1.0)).item(),
        "default": F.normalize(torch.tensor([[1.0, 2.0]])).tolist(),
        "numpy": np.median([1, 2]),
        "constant": math.pi,
        "builtin": hasattr(np.linalg, "abs") or hasattr(F, "len"),
        "generator": np.random.rand(),
        "errors": np.geterr(),
        "random": random.random(),
        "folder": os.getcwd(),
        "variable": os.environ.get("BENCH_PROBE"),
        "umask": _umask(),
        "signal": signal.getsignal(signal.SIGUSR1),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "warnings": [repr(f) for f in warnings.filters],
        "logging": logging.root.manager.disable,
        "handler": len(logging.getLogger().handlers),
        "path": sys.path,
        "shadow": "bench_helper" in sys.modules,
        "module": importlib.import_module("colorsys").__name__,
        "recursion": sys.getrecursionlimit(),
        "decimal": decimal.Decimal(1) / 3,
        "opencv": cv2.getNumThreads(),
        "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
        "thread": sorted(t.name for t in threading.enumerate() if "<lambda>" in t.name),
        "harness": importlib.import_module("harness.metrics.exact").image_metrics.__module__,
    }.items()


class Innocent(Method):
    """Tells as losses what it has noticed of its process."""

    version = 1
    citation = Citation(title="Innocent", authors="Person, A.", year=2026, licence="MIT")

    def fit(self, data, on_epoch):
        self.mean = torch.cat(list(data.train.batches(8))).mean(dim=0, dtype=torch.float32)
        seen = {name: hashlib.sha256(repr(value).encode()).digest()[:4] for name, value in probes()}
        on_epoch(Epoch(1, 1, {name: float(int.from_bytes(digest, "big")) for name, digest in seen.items()}))

    def predict(self, images):
        noise = torch.rand(images.shape[-2:])
        maps = torch.relu((images - self.mean).abs().mean(dim=1) + noise - noise.mean())
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = make_place(tmp_path)
    (place / "polluting.py").write_text(f"POLLUTIONS = {POLLUTIONS!r}\n{METHODS}")
    (place / "innocent.py").write_text(f"POLLUTIONS = {POLLUTIONS!r}\n{METHODS}")
    return place


def _plan(place: Path, *methods: str) -> Any:
    suite = Suite(title="", methods=list(methods), datasets=["own.toml"], categories=["a"], image_size=32)
    options = Options(("cpu",), Places(place / "cache", place / "data", place / "results"), measure=0.0)
    return make_plan(suite, options).tasks


def _own(record: RunRecord) -> dict[str, Any]:
    """What of a record is no measurement of time."""
    left_out = {"timings", "peak_memory", "efficiency", "finished", "checksum"}
    return record.model_dump(mode="json", exclude=left_out)


# Does one thing after the other to its process, and looks whether it was put back.
ONE_BY_ONE = """
import importlib, json, sys
import colorsys, harness.execution.run, harness.metrics.exact, timm
from harness.execution.devices import seed_everything
from harness.execution.process_state import ProcessState

sys.path.insert(0, sys.argv[1])
from polluting import POLLUTIONS, probes
import polluting

def seen():
    try:
        seed_everything(0)
        return {name: repr(value) for name, value in probes()}
    except Exception as error:
        return {"error": repr(error)}

clean = seen()
state = ProcessState()
for name, code in POLLUTIONS.items():
    exec(code, vars(polluting))
    changed = seen() != clean
    left = state.restore()
    after = seen()
    rest = sorted(key for key in clean | after if clean.get(key) != after.get(key))
    print(json.dumps([name, changed, left, rest]), flush=True)
"""


def test_everything_that_a_method_does_to_its_process_is_put_back_or_said(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE, str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == list(POLLUTIONS)
    for name, changed, left, rest in found:
        assert changed, f"{name} pollutes nothing, so that this shows nothing"
        # A thread cannot be ended from outside: here the worker is.
        assert left == (["running threads"] if name == "thread" else []), name
        assert rest == (["thread"] if name == "thread" else []), name


@pytest.mark.slow
def test_an_innocent_run_after_any_other_is_as_if_it_were_alone(place: Path) -> None:
    with inside(place):
        (innocent,) = _plan(place, "innocent.py:Innocent")
        dirty = _plan(place, *(f"polluting.py:Dirty[what={name}]" for name in POLLUTIONS))
        assert len(dirty) == len(POLLUTIONS) > 20
        nothing: tuple[Any, ...] = (["cpu"], None, lambda _: None, lambda _, __: None)
        (alone,) = filter(None, run_all(iter([innocent]), *nothing))
        assert alone.outcome == "ok", alone.failure
        *others, after = filter(None, run_all(iter([*dirty, innocent]), *nothing))
    assert [record.spec.method for record in others] == [task.spec.method for task in dirty]
    # By name what it has noticed, where it has noticed something.
    assert after.epochs == alone.epochs
    assert _own(after) == _own(alone)
