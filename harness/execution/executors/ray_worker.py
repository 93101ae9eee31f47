"""What happens on the nodes of a Ray cluster: a run is executed, and its driver told of it."""

from __future__ import annotations

import logging
import platform
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions

from harness.common.errors import UserError
from harness.execution.checkpoint import Interrupted
from harness.execution.executors.local import death
from harness.execution.executors.ray_transfer import Parcel, unpack_task
from harness.method import Epoch

if TYPE_CHECKING:
    from harness.planning.task import RunTask


@dataclass(frozen=True)
class Host:
    """Where an attempt has begun."""

    name: str
    environment: dict[str, Any]


# Key of a run, the attempt, and what is told of it; ``None``: that it goes on.
Said = tuple[str, int, Host | Epoch | None]


class Post:
    """Where workers leave word for the driver, and hear whether to save and leave their run."""

    def __init__(self) -> None:
        self._said: list[Said] = []
        self._asked = False

    def tell(self, key: str, attempt: int, news: Host | Epoch | None) -> bool:
        """Leaves word of a run; returns whether it shall be saved and left."""
        self._said.append((key, attempt, news))
        return self._asked

    def take(self) -> list[Said]:
        """Hands over all word that was left."""
        said, self._said = self._said, []
        return said

    def ask(self) -> None:
        """Has every run saved and left."""
        self._asked = True


def work(given: RunTask | Parcel, post: Any, attempt: int, per_run: float) -> str | None:
    """Executes a run on a node; returns its record as JSON, ``None`` where it was saved and left."""
    import torch

    from harness.common.parallel import cores
    from harness.execution.record import failed
    from harness.execution.run import execute
    from harness.profiling.environment import environment

    task = given.task if isinstance(given, Parcel) else given
    # On a GPU a run may need all cores for its own part of the work, as with the local executor.
    torch.set_num_threads(max(int(per_run), 1) if task.device == "cpu" else cores())
    logging.getLogger("timm").setLevel(logging.ERROR)
    asked, done = threading.Event(), threading.Event()

    def tell(news: Host | Epoch | None) -> None:
        # The post may be away for a moment, with the node that it was on.
        with suppress(exceptions.RayActorError):
            if ray.get(post.tell.remote(task.key, attempt, news)):
                asked.set()

    def beat() -> None:
        while not done.wait(1):
            tell(None)

    tell(Host(platform.node(), environment(torch.device(task.device))))
    threading.Thread(target=beat, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            if isinstance(given, Parcel):
                task = unpack_task(given, Path(folder))
            return execute(task, tell, asked.is_set).model_dump_json()
        except Interrupted:
            return None
        except UserError as error:
            return failed(task, "failed", str(error)).model_dump_json()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1 if error.code else 0
            return failed(task, "failed", death(code)).model_dump_json()
        finally:
            done.set()
