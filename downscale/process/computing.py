"""Computation by Dask with the chosen scheduler and a progress bar, without changes to Dask's configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import dask
import dask.base
import dask.multiprocessing
import dask.threaded
from dask.system import CPU_COUNT

from downscale.errors import OptionError
from downscale.options import option

Scheduler = Callable[..., Any]
# A bar is of no use for shorter runs.
PATIENCE_SECONDS = 2.0
SERIAL = ("sync", "synchronous", "single-threaded")
# Local to this thread and those it starts; Dask's own configuration is shared by all threads of the process.
_SCHEDULER: ContextVar[Scheduler | None] = ContextVar("scheduler", default=None)


def scheduler() -> Scheduler:
    """Return the scheduler: that of this context, else the one chosen by the user, else Dask's threads."""
    context_scheduler = _SCHEDULER.get()
    if context_scheduler is not None:
        return context_scheduler
    if "distributed" in sys.modules or dask.config.get("scheduler", None) or dask.config.get("get", None):
        return dask.base.get_scheduler() or dask.threaded.get
    # Dask would import its package for clusters, only to find that there is none.
    return dask.threaded.get


def compute(*tasks: Any) -> tuple[Any, ...]:
    """Return the values of lazy objects, like ``dask.compute``."""
    get = scheduler()
    # Dask's own threads are as many as processors.
    number = {"num_workers": workers()} if get is dask.threaded.get else {}
    values: tuple[Any, ...] = dask.compute(*tasks, scheduler=get, **number)
    return values


def cluster() -> Any:
    """Return the client of the cluster in use, or None."""
    client = getattr(scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler_info") else None


def uses_other_processes() -> bool:
    """Return whether other processes compute, which can neither use an open file nor see this memory."""
    return cluster() is not None or scheduler() is dask.multiprocessing.get


def workers() -> int:
    """Return the number of blocks computed at once by Dask's settings: scheduler, number of workers, thread pool.

    Without such a setting it is the number of processors, or less by ``OMP_NUM_THREADS`` or ``NUMBA_NUM_THREADS``.
    """
    if dask.config.get("scheduler", None) in SERIAL:
        return 1
    pool = dask.config.get("pool", None)
    number = dask.config.get("num_workers", None) or (pool if isinstance(pool, int) else None)
    if number is None:
        return _worker_threads() or _limit_by_environment(CPU_COUNT)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise OptionError(
            f"expected num_workers in Dask's configuration to be a whole number from 1, received {number!r}; change it"
        )
    return number


def threads() -> int:
    """Return the number of threads that share the rows of a field in memory: that of blocks at once, or less."""
    return _limit_by_environment(workers())


def _limit_by_environment(number: int) -> int:
    limits = (os.environ.get(f"{library}_NUM_THREADS", "").partition(",")[0].strip() for library in ("OMP", "NUMBA"))
    return min(number, *(max(int(limit), 1) for limit in limits if limit.isdigit()), number)


def _worker_threads() -> int | None:
    """Return the threads of the cluster worker whose task this is, or None elsewhere."""
    distributed = sys.modules.get("distributed")
    try:
        return int(distributed.get_worker().state.nthreads) if distributed else None
    except (AttributeError, ValueError):
        return None


@contextmanager
def use_own_threads() -> Iterator[None]:
    """Compute in threads of this process within this block, whatever the scheduler."""
    with _use_scheduler(dask.threaded.get if uses_other_processes() else scheduler()):
        yield


@contextmanager
def use_temporary_threads() -> Iterator[None]:
    """Compute in threads that end with this block: a late thread would recreate a removed file.

    Uses the number of threads that Dask is set to; a chosen pool or another scheduler has precedence.
    """
    if scheduler() is not dask.threaded.get or dask.config.get("pool", None) is not None:
        yield
        return
    executor = dask.threaded.ContextAwareThreadPoolExecutor(workers())
    with executor as pool, _use_scheduler(partial(dask.threaded.get, pool=pool)):
        yield


@contextmanager
def _use_scheduler(new: Scheduler) -> Iterator[None]:
    token = _SCHEDULER.set(new)
    try:
        yield
    finally:
        _SCHEDULER.reset(token)


@contextmanager
def use_threads_by_default() -> Iterator[None]:
    """Make Dask use threads in this process unless another scheduler is chosen.

    For programs that own their process, such as the command line: Dask's configuration is shared by all threads.
    """
    is_chosen = "distributed" in sys.modules or dask.config.get("scheduler", None) or dask.config.get("get", None)
    settings = {"scheduler": dask.threaded.get, "array.rechunk.method": "tasks"}
    with dask.config.set({} if is_chosen else settings):
        yield


def progress_bar() -> AbstractContextManager[Any]:
    """Return a context in which Dask shows a progress bar on the standard error, by the option "progress"."""
    setting = option("progress")
    if setting == "off" or (setting == "auto" and not sys.stderr.isatty()):
        return nullcontext()
    from dask.diagnostics import ProgressBar

    return ProgressBar(minimum=PATIENCE_SECONDS if setting == "auto" else 0.0, out=sys.stderr)
