"""Work on a second core while this process does other work."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection


@contextmanager
def beside(work: Callable[[], None], worth: bool) -> Iterator[None]:
    """Does some work while the body runs, in a copy of this process, or after it in this one.

    A copy sees everything that is there without reading it again. It is made on Linux only, where a second
    core may be used: elsewhere forked processes are not safe to do more than start a program.

    Args:
        work: gives nothing back but what it writes to disk, and starts no threads.
        worth: whether there is enough to do for a process of its own.

    Raises:
        Exception: whatever ``work`` raised, after the body; ``RuntimeError`` where the copy was killed.
    """
    # A daemonic process, as of a pool, may have no children.
    alone = sys.platform != "linux" or multiprocessing.current_process().daemon
    if not worth or alone or len(os.sched_getaffinity(0)) < 2:
        yield
        work()
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    copy = context.Process(target=_work, args=(work, sender))
    copy.start()
    sender.close()
    try:
        yield
        try:
            error: Exception | None = receiver.recv()
        except EOFError:
            error = RuntimeError("a process that wrote a part of the report was killed")
    finally:
        # Where the body failed there is nothing to wait for.
        copy.terminate()
        copy.join()
    if error is not None:
        raise error


def _work(work: Callable[[], None], sender: Connection) -> None:
    try:
        work()
    except Exception as error:
        sender.send(error)
    else:
        sender.send(None)
