"""Runs on Ray: the same records as by worker processes, and each once, whatever befalls nodes and workers."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import click
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from harness.cli.main import run
from harness.common.errors import UserError
from harness.common.places import Places
from harness.execution.executors.choose import opened
from harness.execution.executors.protocol import AGAIN
from harness.execution.executors.ray_transfer import pack_task, package, unpack_task
from harness.planning.plan import Options, Plan, make_plan
from harness.results.artefacts import claim_path
from harness.spec.record import RunRecord
from harness.spec.run import RunSpec
from harness.spec.suite import Suite
from tests.harness.places import (
    MINE,
    RUN,
    Spawn,
    bench,
    environment,
    files_in,
    inside,
    make_place,
    records,
    spawning,
    undisturbed,
)

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "ulsad-bench[ray]"'
)
DOCS = Path(__file__).parents[4] / "docs" / "cluster"
WORDS = (*RUN, "--no-report", "--checkpoint-every", "0")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place whose method writes its diary into the place, wherever its worker runs, and says where."""
    place = make_place(tmp_path)
    # The number of the node is in the environment of the nodes that a test starts.
    text = MINE.replace('open("diary"', f"open({str(place / 'diary')!r}")
    where = "{os.environ.get('NODE', '-')} {__import__('harness').__file__} {__file__}"
    (place / "mine.py").write_text(text.replace("{self.setup.seed}", "{self.setup.seed} " + where))
    return place


def diary(place: Path) -> list[list[str]]:
    """Of each training that began: process, seed, node, where the harness was, where the method was."""
    path = place / "diary"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def until(happens: Callable[[], object], seconds: float = 300) -> None:
    began = time.monotonic()
    while not happens():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)


# Without a cluster


def test_without_ray_one_sentence_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "harness.execution.executors.ray", raising=False)
    with inside(place):
        said = bench(*WORDS, "--executor", "ray")
    assert said.exit_code == 2
    assert said.output.startswith("Error: --executor ray needs Ray (")
    assert said.output.endswith('): run pip install "ulsad-bench[ray]".\n')


@pytest.mark.parametrize("words", [("--address", "auto"), ("--per-run", "0.5")])
def test_what_is_for_ray_only_is_not_passed_over(place: Path, words: tuple[str, ...]) -> None:
    with inside(place):
        said = bench(*WORDS, *words)
    assert said.exit_code == 2
    sentence = f"Error: {' '.join(words)} is for --executor ray only: add that, or leave it out.\n"
    assert said.output == sentence


@with_ray
def test_ray_chooses_the_gpu_itself() -> None:
    message = "--device cuda:1: Ray chooses the GPU of each run, so that there are auto, cpu, cuda."
    with pytest.raises(UserError, match=message), opened("ray", "cuda:1", {}):
        pass


@with_ray
def test_no_cluster_at_an_address_is_said_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    message = f"There is no Ray cluster to join at '{address}' (.*): start one by `ray start --head`"
    with (
        pytest.raises(UserError, match=message),
        opened("ray", "auto", {"address": address, "per_run": None}),
    ):
        pass


@with_ray
def test_rays_client_is_not_supported_and_that_is_said_at_once() -> None:
    message = (
        "--address ray://head:10001: a driver outside the cluster .* is not supported: run this on a mach"
    )
    with (
        pytest.raises(UserError, match=message),
        opened("ray", "auto", {"address": "ray://head:10001", "per_run": None}),
    ):
        pass


# What travels


def planned(place: Path, **given: Any) -> Plan:
    suite = Suite(title="T", methods=["mine.py:Mine"], datasets=["own.toml"], image_size=32)
    places = Places(place / "cache", place / "data", place / "results")
    return make_plan(suite, Options(devices=("cpu",), places=places, **given))


def test_the_package_travels_whole(tmp_path: Path) -> None:
    """In a process that knows the folder and installed packages, but no checkout."""
    package(tmp_path)
    code = """
import sys, site
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import harness
from harness.data.card import load_card
from harness.registry.methods import load_method, method_names
print(harness.__file__, len(method_names()), load_card("mvtec").title)
load_method("ulsad")
"""
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True)
    assert said.stdout == f"{tmp_path}/harness/__init__.py 9 MVTec AD\n", said.stderr


def test_files_of_ones_own_travel_with_the_run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with inside(place):
        task = planned(place).todo[0]
        parcel = pack_task(task)
    (place / "mine.py").write_text("another")
    (place / "own.toml").unlink()
    folder = tmp_path_factory.mktemp("node")
    here = unpack_task(parcel, folder)
    assert here.method == f"{folder}/mine.py:Mine"
    assert "class Mine" in (folder / "mine.py").read_text()
    assert here.card == str(folder / "own.toml")
    assert (folder / "own.toml").read_text().startswith("\nschema = 1")
    assert here.key == task.key


def test_a_node_looks_where_its_own_environment_says(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with inside(place):
        parcel = pack_task(planned(place).todo[0])
    folder = tmp_path_factory.mktemp("node")
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.delenv("BENCH_CACHE", raising=False)
    here = unpack_task(parcel, folder)
    assert (here.places.data_root, here.places.cache) == (place / "data", place / "cache")
    monkeypatch.setenv("BENCH_DATA", "/of/the/node")
    monkeypatch.setenv("BENCH_CACHE", "/cache/of/it")
    here = unpack_task(parcel, folder)
    assert (here.places.data_root, here.places.cache) == (Path("/of/the/node"), Path("/cache/of/it"))


def test_a_node_without_the_results_folder_keeps_nothing(place: Path, tmp_path: Path) -> None:
    with inside(place):
        (task, *_) = planned(place).todo
        (keeping, *_) = planned(place, keep=frozenset({"maps"})).todo
    folder = place / "node"
    folder.mkdir()
    assert unpack_task(pack_task(task), folder).places.results == folder / "results"
    with pytest.raises(UserError, match=r"is not the driver's on node .*, and maps could not be kept there"):
        unpack_task(pack_task(keeping), folder)
    claim = claim_path(task.record_path)
    claim.parent.mkdir(parents=True)
    claim.touch()
    assert unpack_task(pack_task(task), folder).places.results == place / "results"
    assert unpack_task(pack_task(keeping), folder).places.results == place / "results"


def test_a_node_with_other_weights_says_so(place: Path) -> None:
    with inside(place):
        task = planned(place).todo[0]
    from harness.registry.weights import Weights

    other = replace(
        task,
        weights={"resnet18": Weights("resnet18", "0" * 64)},
        spec=task.spec.model_copy(update={"backbone_weights": "none"}),
    )
    with pytest.raises(UserError, match="has the weights of backbone 'resnet18' with SHA-256 random…, but"):
        unpack_task(pack_task(other), place)


# The files of docs/cluster


@with_ray
def test_the_cloud_file_is_what_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (DOCS / "cluster.yaml").read_text()
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    version = re.search(r"ray\[default\]==[\d.]+", text)
    assert version
    assert version[0] in (DOCS.parent / "cluster.md").read_text(), "driver and nodes have one version"


def test_the_slurm_script_is_one() -> None:
    subprocess.run(["bash", "-n", str(DOCS / "slurm.sh")], check=True)


@pytest.mark.parametrize("name", ["cluster.md", "cluster/cluster.yaml", "cluster/slurm.sh"])
def test_commands_in_the_docs_have_options_that_there_are(name: str) -> None:
    text = (DOCS.parent / name).read_text().replace("\\\n", " ")
    used = {o for line in re.findall(r"bench run .*", text) for o in re.findall(r"--[a-z-]+", line)}
    known = {option for parameter in run.get_params(click.Context(run)) for option in parameter.opts}
    assert used <= known
    assert name == "cluster/cluster.yaml" or "--executor" in used


# On clusters


def surroundings(place: Path) -> dict[str, str]:
    # Sums of numbers depend on how many threads share them. Ray's own nodes let workers give way to all else.
    return environment(place) | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


@pytest.fixture
def spawn(place: Path) -> Iterator[Spawn]:
    with spawning(place, surroundings(place)) as call:
        yield call


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def processes(place: Path) -> list[int]:
    """The processes that were started for this place: its cache is in their environment."""
    mark, found = f"BENCH_CACHE={place / 'cache'}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in path.joinpath("environ").read_bytes():
                found.append(int(path.name))
    return found


def with_fault(parameters: str, *words: str) -> list[str]:
    return [*WORDS[:2], f"mine.py:Mine{parameters}", *WORDS[3:], *words]


def same(place: Path, one: str, other: str) -> None:
    """Makes sure that two results folders hold the same records, and the same beside them."""
    one_files, other_files = (
        {path.relative_to(place / name) for path in files_in(place / name)} for name in (one, other)
    )
    assert one_files == other_files
    for name in one_files:
        if name.suffix == ".json":
            assert undisturbed(place / one / name) == undisturbed(place / other / name), name
        else:
            kept, others = (load_file(place / folder / name) for folder in (one, other))
            assert kept.keys() == others.keys()
            assert all(np.array_equal(kept[key], others[key]) for key in kept), name


@with_ray
@pytest.mark.slow
def test_records_are_those_of_worker_processes(
    place: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*WORDS, "--keep", "maps,weights", "--measure", "0"]
    code, local, _ = end(spawn(*words, "--results", "whole"))
    assert code == 0
    # A short name, for Ray's sockets.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        code, out, err = end(spawn(*words, "--executor", "ray"))
        assert list(Path(folder).iterdir()) == []
    assert (code, err) == (0, "")
    same(place, "whole", "results")
    assert len(records(place)) == 2
    # Lines of epochs come every half minute only. Where several runs go on at a time, their order and where
    # they are differ.
    line = re.compile(r"^\[\d+/\d+\] (.*?)(?: · cpu on [^:]*)?(: .*?)(?: \(.*)?$", re.MULTILINE)
    assert sorted(line.findall(out)) == sorted(line.findall(local)) != []
    until(lambda: not processes(place))


@with_ray
@pytest.mark.slow
def test_sigterm_to_the_driver_of_its_own_cluster_saves_and_leaves_nothing(place: Path, spawn: Spawn) -> None:
    words = with_fault("[wait=2,epochs=8]", "--categories", "a", "--executor", "ray")
    driver = spawn(*words)
    until(lambda: diary(place))
    driver.terminate()
    code, _, err = end(driver)
    assert code == 143
    assert "Stopped by SIGTERM. Finished runs are kept; go on with:\n  bench run --methods" in err
    assert len(list((place / "results").rglob("*.checkpoint.safetensors"))) == 1
    assert not records(place)
    until(lambda: not processes(place))


@with_ray
@pytest.mark.slow
def test_a_killed_driver_takes_its_own_cluster_with_it(place: Path, spawn: Spawn) -> None:
    driver = spawn(*with_fault("[wait=600]", "--executor", "ray"))
    until(lambda: diary(place))
    driver.kill()
    driver.wait()
    until(lambda: not processes(place))


@pytest.fixture
def cluster(place: Path) -> Iterator[Any]:
    """Three nodes on this machine, each for one run at a time; their names are in their environment."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    given = {"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False}
    found = Cluster()
    for number in range(3):
        found.add_node(**given, env_vars=surroundings(place) | {"NODE": str(number)})
    yield found
    found.shutdown()


@with_ray
@pytest.mark.slow
def test_a_node_is_lost_and_each_run_is_recorded_once(place: Path, spawn: Spawn, cluster: Any) -> None:
    words = with_fault("[wait=1]", "--keep", "maps", "--seeds", "0-1", "--measure", "0")
    assert end(spawn(*words, "--results", "whole"))[0] == 0
    (place / "diary").unlink()
    driver = spawn(*words, "--executor", "ray", "--address", cluster.address)
    until(lambda: any(node == "2" for _, _, node, *_ in diary(place)))
    lost = [seed for _, seed, node, *_ in diary(place) if node == "2"]
    cluster.remove_node(cluster.list_all_nodes()[2], allow_graceful=False)
    code, out, _ = end(driver)
    assert code == 0, out
    same(place, "whole", "results")
    began = diary(place)
    assert {node for _, _, node, *_ in began} == {"0", "1", "2"}
    assert len(began) == 4 + 1, "one was started again, which was on the lost node"
    assert lost
    assert out.count(": started") == 4
    for _, _, _, package_at, method_at in began:
        assert "working_dir_files" in package_at, "the package came from the driver"
        assert not method_at.startswith(str(place)), "and so did the method"
    one, other = (
        RunRecord.model_validate_json(next((place / name).rglob("*.json")).read_text()).environment.get("git")
        for name in ("whole", "results")
    )
    assert one == other, "which leaves its commit behind"


@with_ray
@pytest.mark.slow
def test_the_run_of_a_killed_worker_is_started_again(place: Path, spawn: Spawn, cluster: Any) -> None:
    words = with_fault("[wait=2]", "--categories", "a", "--executor", "ray", "--address", cluster.address)
    driver = spawn(*words)
    until(lambda: diary(place))
    os.kill(int(diary(place)[0][0]), signal.SIGKILL)
    code, out, _ = end(driver)
    assert code == 0
    assert out.count(": started") == 1
    assert len(diary(place)) == 2


@with_ray
@pytest.mark.slow
def test_methods_that_raise_hang_and_die(place: Path, spawn: Spawn, cluster: Any) -> None:
    methods = ",".join(f"mine.py:Mine[{fault}]" for fault in ("fault=die", "fault=raise", "wait=600"))
    words = [WORDS[0], "--methods", methods, *WORDS[3:], "--categories", "a", "--timeout", "20"]
    code, out, _ = end(spawn(*words, "--executor", "ray", "--address", cluster.address))
    assert code == 1
    assert "failed: RuntimeError: planted" in out
    assert "failed: the worker process was ended from outside 4 times, last on " in out
    assert "timeout: took longer than 20 s" in out
    assert len(diary(place)) == 1 + 4 + 1, "only what was lost is started again"
    assert {record.outcome for record in records(place).values()} == {"failed", "timeout"}
    assert all(record.environment["device"] == "cpu" for record in records(place).values())


@with_ray
@pytest.mark.slow
def test_a_run_that_was_out_of_memory_is_tried_once_more_alone(place: Path, spawn: Spawn) -> None:
    from ray.cluster_utils import Cluster

    # Two CPUs on the one node: two runs at a time, of which the other is long.
    found = Cluster()
    found.add_node(
        num_cpus=2, object_store_memory=10**8, include_dashboard=False, env_vars=surroundings(place)
    )
    methods = "mine.py:Mine[wait=3],mine.py:Mine[fault=memory]"
    more = ("--categories", "a", "--measure", "0", "--executor", "ray", "--address", found.address)
    try:
        assert end(spawn(*with_fault("[fault=memory once]", *more)))[0] == 0
        code, out, _ = end(spawn(WORDS[0], "--methods", methods, *WORDS[3:], *more))
    finally:
        found.shutdown()
    assert code == 1, "one was out of memory both times"
    by_fault = {record.spec.params.get("fault", ""): record for record in records(place).values()}
    outcomes = {fault: (record.outcome, record.remarks) for fault, record in by_fault.items()}
    assert outcomes == {
        "memory once": ("ok", [AGAIN]),
        "": ("ok", []),
        "memory": ("out_of_memory", [AGAIN]),
    }
    assert len(diary(place)) == 5
    assert out.count(": started") == 2


@with_ray
def test_alone_is_a_whole_gpu_or_all_cpus_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.execution.executors import ray as module

    class Remote:
        asked: ClassVar[list[dict[str, Any]]] = []

        def options(self, **given: Any) -> Remote:
            self.asked.append({name: value for name, value in given.items() if name != "name"})
            return self

        def remote(self, *_: object) -> None:
            return None

    nodes = [
        {"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 4), (True, 8), (False, 16))
    ]
    monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
    task: Any = SimpleNamespace(spec=SimpleNamespace(label=lambda: "a run"))
    for kind, per_run in (("GPU", 0.5), ("GPU", 2.0), ("CPU", 1.0)):
        cluster = object.__new__(module._Cluster)
        cluster.__dict__.update(_kind=kind, _per_run=per_run, _may_grow=False, _remote=Remote(), _post=None)
        for alone in (False, True):
            cluster._submit(task, 1, alone)
    assert Remote.asked == [{}, {"num_gpus": 1}, {}, {"num_gpus": 2}, {}, {"num_cpus": 8}]


@with_ray
def test_a_run_whose_result_is_evicted_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.execution.executors import ray as module
    from harness.execution.executors import ray_runs

    def evicted(_: object) -> str:
        raise ray_runs.exceptions.ObjectLostError("00", None, "")

    again: list[int] = []
    cluster = object.__new__(module._Cluster)
    spec = RunSpec(dataset="d", category="c", method="m", seed=0)
    task: Any = SimpleNamespace(spec=spec, device="cpu")
    one: Any = SimpleNamespace(ref=None, lost=0, alone=False, host="node", environment={}, task=task)
    monkeypatch.setattr(module.ray, "get", evicted)
    monkeypatch.setattr(module._Cluster, "_start_again", lambda _, run: again.append(run.lost))
    monkeypatch.setattr(ray_runs, "_failed", lambda _, outcome, message: (outcome, message))
    for _ in range(module.RETRIES):
        assert cluster._result(one, leaving=False) is None
    assert again == [*range(1, module.RETRIES + 1)]
    found: Any = cluster._result(one, leaving=False)
    said = f"its record was lost from Ray's object store {module.RETRIES + 1} times, last on node"
    assert found == ("failed", said)


@with_ray
@pytest.mark.slow
def test_two_drivers_and_one_that_is_asked_to_end(place: Path, spawn: Spawn, cluster: Any) -> None:
    words = with_fault("[wait=2]", "--seeds", "0-1", "--executor", "ray", "--address", cluster.address)
    first = spawn(*words)
    until(lambda: diary(place))
    first.terminate()
    assert end(first)[0] == 143
    workers = [pid for pid, *_ in diary(place)]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
    drivers = [spawn(*words), spawn(*words)]
    assert [end(driver)[0] for driver in drivers] == [0, 0]
    assert len(records(place)) == 4
    assert any(record.resumed for record in records(place).values()), "what was saved goes on"
    assert [p.name for p in files_in(place / "results") if p.suffix != ".json"] == []
