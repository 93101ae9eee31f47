"""Runs as jobs of a SLURM cluster, by submitit: an array of jobs, each one run in a process of its own.

The driver stays until all is done: it holds the runs' claims, and writes their records. A job that SLURM
takes back, or that reaches its time limit, is queued again and goes on from its last checkpoint; where it is
lost otherwise, its run is recorded as failed. When the driver ends, it cancels its jobs: what was trained is
in checkpoints, and the same command goes on there. All nodes share the results folder.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import Terminated, UserError, terminable
from harness.common.toml import read_toml
from harness.execution.executors.protocol import Executor, Option, ReadyExecutor

if TYPE_CHECKING:
    from harness.execution.executors.ray_transfer import Parcel
    from harness.method import Epoch
    from harness.planning.task import RunTask
    from harness.spec.record import RunRecord

# Below the results folder, for all nodes see that; gone with the command unless a job was lost.
_FOLDER = ".slurm"
_DEVICES = ("auto", "cpu", "cuda")
_JOBS = 64
# States in which a job has not begun, by SLURM's and submitit's names.
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "UNKNOWN", "QUEUED")
# Seconds between two looks at the jobs.
_PAUSE = 0.5
_OPTIONS = (
    Option("--slurm-partition", str, "Partition that jobs go to."),
    Option("--slurm-time", float, "Minutes that a job may take before it is queued again.  [default: 240]"),
    Option("--slurm-gpus", int, "GPUs of a job.  [default: 1; with --device cpu 0]"),
    Option("--slurm-cpus", int, "CPUs of a job.  [default: 8]"),
    Option("--slurm-memory", float, "GB of memory of a job.  [default: the partition's]"),
    Option("--slurm-jobs", int, f"Runs that are in the queue at a time.  [default: {_JOBS}]"),
    Option("--slurm-config", str, "TOML file of further parameters, as submitit names them."),
)


@contextmanager
def _opened(device: str, given: Mapping[str, Any]) -> Iterator[ReadyExecutor]:
    """Looks for submitit and for a cluster; see :class:`harness.execution.executors.protocol.Executor`."""
    if device not in _DEVICES:
        raise UserError(
            f"--device {device}: SLURM chooses the GPU of each run, so that there are {', '.join(_DEVICES)}."
        )
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f'--executor slurm needs submitit ({error}): run pip install "ulsad-bench[slurm]".'
        ) from error
    config = given.get("slurm_config")
    more: dict[str, Any] = dict(read_toml(Path(config), "Settings of SLURM")) if config else {}
    cluster = str(more.pop("cluster", "slurm"))
    if cluster == "slurm" and submitit.AutoExecutor.which() != "slurm":
        raise UserError(
            "There is no SLURM here (no command srun): run this on a machine that may submit jobs, or leave "
            "--executor slurm out."
        )
    count = given.get("slurm_jobs") or _JOBS
    found = _Cluster(cluster, device, _parameters(device, given) | more)
    yield ReadyExecutor(("cpu",) * count, f"{cluster} (at most {count} runs at a time)", found.run_all)


def _parameters(device: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What options say, as submitit names it."""
    gpus = given.get("slurm_gpus")
    found = {
        "slurm_partition": given.get("slurm_partition"),
        "timeout_min": given.get("slurm_time") or 240,
        "gpus_per_node": (0 if device == "cpu" else 1) if gpus is None else gpus,
        "cpus_per_task": given.get("slurm_cpus") or 8,
        "mem_gb": given.get("slurm_memory"),
    }
    return {name: value for name, value in found.items() if value is not None}


SLURM = Executor("jobs of a SLURM cluster, by submitit", _OPTIONS, _opened)


class SlurmJob:
    """Executes a run within a job; queued again, it goes on from the run's checkpoint.

    Args:
        device: as typed; which GPU it is, SLURM decides.
        timeout: seconds after which the run is ended.
    """

    def __init__(self, device: str, timeout: float | None) -> None:
        self._device, self._timeout = device, timeout

    def __call__(self, parcel: Parcel) -> str:
        """Returns the record as JSON."""
        from harness.execution.devices import find_device
        from harness.execution.executors.local import run_all
        from harness.execution.executors.ray_transfer import unpack_task
        from harness.execution.record import failed

        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            try:
                task = unpack_task(parcel, Path(folder))
                task = replace(task, device=find_device(self._device))
            except UserError as error:
                return failed(parcel.task, "failed", str(error)).model_dump_json()
            # In a worker of its own: whatever ends that does not end the job.
            runs = run_all(iter([task]), (task.device,), self._timeout, lambda _: None, lambda *_: None)
            return next(record for record in runs if record is not None).model_dump_json()

    def checkpoint(self, parcel: Parcel) -> Any:
        """Returns what is queued again when SLURM takes the job back."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, parcel)


@dataclass
class _Going:
    """A run whose job waits or is at work."""

    task: RunTask
    job: Any
    told: bool = False


class _Cluster:
    """Where jobs are submitted.

    Args:
        kind: ``slurm``; submitit's ``local`` and ``debug`` have jobs on this machine.
        device: as typed.
        parameters: of jobs, as submitit names them.
    """

    def __init__(self, kind: str, device: str, parameters: Mapping[str, Any]) -> None:
        self._kind, self._device, self._parameters = kind, device, parameters
        self._folders: set[Path] = set()

    def run_all(
        self,
        tasks: Iterator[RunTask | None],
        devices: Sequence[str],
        timeout: float | None,
        on_start: Callable[[RunTask], None],
        on_epoch: Callable[[RunTask, Epoch], None],
    ) -> Generator[RunRecord | None, None, None]:
        """See :class:`harness.execution.executors.protocol.RunAll`; of epochs nothing is heard."""
        going: list[_Going] = []
        all_well, more, asked = True, True, threading.Event()
        with terminable(asked.set):
            try:
                while (more or going) and not asked.is_set():
                    more, new = (
                        _take(tasks, len(devices) - len(going) if more else 0) if more else (False, [])
                    )
                    going += self._submit(new, timeout) if new else []
                    for one in list(going):
                        if not one.told and one.job.state not in _WAITING:
                            one.told = True
                            on_start(one.task)
                        if one.job.done():
                            going.remove(one)
                            record, well = _record(one)
                            all_well &= well
                            yield record
                    yield None
                    asked.wait(_PAUSE)
            finally:
                for one in going:
                    with suppress(Exception):  # it has ended meanwhile, or the cluster is gone
                        one.job.cancel()
                if all_well and not going:
                    for folder in self._folders:
                        shutil.rmtree(folder, ignore_errors=True)
        if asked.is_set():
            raise Terminated

    def _submit(self, tasks: Sequence[RunTask], timeout: float | None) -> list[_Going]:
        import submitit

        from harness.execution.executors.ray_transfer import pack_task

        folder = tasks[0].places.results.absolute() / _FOLDER
        self._folders.add(folder)
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self._kind)
            given: dict[str, Any] = {"name": "ulsad-bench", "slurm_array_parallelism": len(tasks)}
            executor.update_parameters(**(given | dict(self._parameters)))
            jobs = executor.map_array(SlurmJob(self._device, timeout), [pack_task(task) for task in tasks])
        except Exception as error:  # submitit raises whatever sbatch said, and for what it does not know
            said = " ".join(str(error).split())
            raise UserError(f"Jobs could not be submitted ({said}): see --slurm-config.") from error
        return [_Going(task, job) for task, job in zip(tasks, jobs, strict=True)]


def _take(tasks: Iterator[RunTask | None], count: int) -> tuple[bool, list[RunTask]]:
    """Takes up to so many runs; returns whether there may be more, and the runs."""
    taken: list[RunTask] = []
    while len(taken) < count:
        try:
            task = next(tasks)
        except StopIteration:
            return False, taken
        if task is None:
            break
        taken.append(task)
    return True, taken


def _record(one: _Going) -> tuple[RunRecord, bool]:
    """Returns the record that a job gave, or that of a job which is lost, and whether it gave one."""
    from harness.execution.record import failed
    from harness.spec.record import RunRecord

    try:
        return RunRecord.model_validate_json(one.job.result()), True
    except Exception as error:  # whatever ended the job, submitit says so by an exception of its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"its job {one.job.job_id} was lost ({said}); what it printed is in {one.job.paths.stderr}"
        # There need not be the device here.
        return failed(replace(one.task, device="cpu"), "failed", message), False
