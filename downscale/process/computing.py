"""Computing by Dask with the scheduler that was chosen; nothing is left in Dask's configuration (dask only)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import dask
import dask.base
import dask.multiprocessing
import dask.threaded
from dask.system import CPU_COUNT

from downscale.errors import OptionError

Scheduler = Callable[..., Any]
SERIAL = ("sync", "synchronous", "single-threaded")
# Of this thread and of what it starts: Dask's own configuration is that of all threads of the process.
_OWN: ContextVar[Scheduler | None] = ContextVar("scheduler", default=None)


def scheduler() -> Scheduler:
    """Return what computes: the scheduler of this context, else the one that the user chose, else Dask's threads."""
    own = _OWN.get()
    if own is not None:
        return own
    if "distributed" in sys.modules or dask.config.get("scheduler", None) or dask.config.get("get", None):
        return dask.base.get_scheduler() or dask.threaded.get
    # Dask would load its package for clusters, only to find that there is none.
    return dask.threaded.get


def computed(*tasks: Any) -> tuple[Any, ...]:
    """Return the values of lazy objects, as ``dask.compute`` does."""
    found: tuple[Any, ...] = dask.compute(*tasks, scheduler=scheduler())
    return found


def cluster() -> Any:
    """Return the client of the cluster that computes, None where none does."""
    owner = getattr(scheduler(), "__self__", None)
    return owner if hasattr(owner, "scheduler_info") else None


def elsewhere() -> bool:
    """Return whether other processes compute, which can neither be handed an open file nor see this memory."""
    return cluster() is not None or scheduler() is dask.multiprocessing.get


def workers() -> int:
    """Return how many blocks are in work at once, as Dask is set: scheduler, number of workers, pool of threads.

    Raises
    ------
    OptionError
        If the number of workers in Dask's configuration is no whole number from 1.
    """
    if dask.config.get("scheduler", None) in SERIAL:
        return 1
    pool = dask.config.get("pool", None)
    number = dask.config.get("num_workers", None) or (pool if isinstance(pool, int) else None)
    if number is None:
        return _own_threads() or CPU_COUNT
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise OptionError(
            f"expected num_workers in Dask's configuration to be a whole number from 1, received {number!r}; change it"
        )
    return number


def _own_threads() -> int | None:
    """Return the threads of the worker of a cluster in whose task this runs, None elsewhere."""
    cluster = sys.modules.get("distributed")
    if cluster is None:
        return None
    try:
        return int(cluster.get_worker().state.nthreads)
    except (AttributeError, ValueError):
        return None


@contextmanager
def here() -> Iterator[None]:
    """Compute in threads of this process within this block, wherever it would be done."""
    with _using(dask.threaded.get if elsewhere() else scheduler()):
        yield


@contextmanager
def threads_that_end() -> Iterator[None]:
    """Compute in threads that have ended with this block: one that still wrote would make a removed file anew.

    As many as Dask is set to take; where a pool or another scheduler was chosen, it computes.
    """
    if scheduler() is not dask.threaded.get or dask.config.get("pool", None) is not None:
        yield
        return
    own = dask.threaded.ContextAwareThreadPoolExecutor(workers())
    with own as pool, _using(partial(dask.threaded.get, pool=pool)):
        yield


@contextmanager
def _using(own: Scheduler) -> Iterator[None]:
    token = _OWN.set(own)
    try:
        yield
    finally:
        _OWN.reset(token)


@contextmanager
def scheduled() -> Iterator[None]:
    """Have all that Dask computes in this process take threads where nothing else was chosen.

    For programs that own their process, such as the command line: Dask's configuration is that of all threads.
    """
    chosen = "distributed" in sys.modules or dask.config.get("scheduler", None) or dask.config.get("get", None)
    settings = {"scheduler": dask.threaded.get, "array.rechunk.method": "tasks"}
    with dask.config.set({} if chosen else settings):
        yield
