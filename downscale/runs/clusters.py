"""Dask clusters by name, profile or address: started with restricted settings, and closed after use.

A recipe sets the size and the queue of a cluster, never code. Classes come from a short list, and settings that contain
code or shell lines are left to the user's own Dask configuration.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from downscale.errors import DownscaleError, InputError, OptionError, listing
from downscale.process.interrupts import Stopped, raise_if_signalled, shield_children
from downscale.runs.recipe import Dask, Profile

LOCAL, QUEUES, GPUS = "local", {"slurm": "SLURMCluster", "pbs": "PBSCluster"}, "cuda"
EXTRA = 'pip install "downscale-climate[hpc]"'
CLASSES = {
    "distributed": ("LocalCluster",),
    "dask.distributed": ("LocalCluster",),
    "dask_jobqueue": (
        "SLURMCluster", "PBSCluster", "SGECluster", "LSFCluster", "OARCluster", "MoabCluster", "HTCondorCluster",
    ),
    "dask_cuda": ("LocalCUDACluster",),
}  # fmt: skip
# Size, wall time, queue and account: none of these is executed.
SETTINGS = (
    "account", "cores", "cpus", "CUDA_VISIBLE_DEVICES", "dashboard_address", "death_timeout", "device_memory_limit",
    "disk", "host", "interface", "job_cpu", "job_extra_directives", "job_mem", "job_name", "local_directory",
    "log_directory", "memory", "memory_limit", "n_workers", "name", "ncpus", "nanny", "processes", "project",
    "protocol", "queue", "resource_spec", "rmm_pool_size", "scheduler_options", "shared_temp_directory", "silence_logs",
    "threads_per_worker", "walltime",
)  # fmt: skip
# Counts below one would make the client wait forever.
COUNTS = ("n_workers", "threads_per_worker", "cores", "cpus", "ncpus", "processes", "job_cpu")
SCHEDULER_SETTINGS = ("dashboard_address", "host", "interface", "port", "protocol")
ADDRESS = re.compile(r"(\w+://.+|[\w.-]+:\d+)")
ANY_PORT = "127.0.0.1:0"
# The allocator keeps blocks of memory below a gigabyte for the next block of work.
MEMORY_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": 4 * 10**9, "MALLOC_MMAP_THRESHOLD_": 10**9}
# Timeout for the answer of a scheduler.
WAIT_SECONDS = 10.0
# Interval of looking for new workers.
POLL_SECONDS = 1.0


def profile_of(name: str | None, dask: Dask) -> Profile | None:
    """Return the profile of cluster ``name`` (or of the recipe's), or None for no cluster.

    The name is a profile of the recipe, "local", "slurm", "pbs", "cuda", or the address of a scheduler. A profile with
    code, or an unknown name, raises OptionError.
    """
    name = name or dask.use
    if name is None:
        return None
    types = {LOCAL: "distributed.LocalCluster", GPUS: "dask_cuda.LocalCUDACluster"}
    types |= {queue: f"dask_jobqueue.{kind}" for queue, kind in QUEUES.items()}
    if name in dask.profiles:
        profile = dask.profiles[name]
    elif name in types:
        # The profile of the recipe for a queue, if it has one.
        queues = dask.profiles.values() if name in QUEUES else ()
        matches = (profile for profile in queues if (profile.cluster or {}).get("type") == types[name])
        profile = next(matches, Profile(cluster={"type": types[name]}))
    elif ADDRESS.fullmatch(name):
        profile = Profile(scheduler_address=name)
    else:
        legal = [*dask.profiles, LOCAL, *QUEUES, GPUS]
        raise OptionError(f"expected a cluster among {listing(legal)} or an address tcp://HOST:PORT, received {name!r}")
    if profile.cluster is not None:
        _require_harmless(profile.cluster)
    return profile


def _require_harmless(settings: dict[str, Any]) -> None:
    """Raise an OptionError unless a cluster is of a known class and its settings contain no code."""
    kind = str(settings.get("type"))
    legal = [f"{module}.{name}" for module, names in CLASSES.items() for name in names]
    if kind not in legal:
        raise OptionError(f"expected the type of a cluster among {listing(legal)}, received {kind!r}")
    for key, value in settings.items():
        if key != "type" and key not in SETTINGS:
            raise OptionError(
                f"cluster of type {kind}: expected settings among {listing(SETTINGS)}, received {key!r}; put code "
                "to run into Dask's own configuration"
            )
        if key in COUNTS and value is not None and not (isinstance(value, int) and value >= 1):
            raise OptionError(f"cluster of type {kind}: expected {key} as a whole number of at least 1, got {value!r}")
        if key == "scheduler_options" and not (isinstance(value, dict) and set(value) <= set(SCHEDULER_SETTINGS)):
            raise OptionError(f"scheduler_options: expected {listing(SCHEDULER_SETTINGS)}, received {value!r}")
        if any("\n" in text or "\r" in text for text in _texts(value)):
            raise OptionError(f"cluster of type {kind}: expected one line for {key!r}, received several")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts(list(pair))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


@contextmanager
def client_of(profile: Profile, workers: int | None) -> Iterator[Any]:
    """Yield a client of the cluster of a profile; a cluster that was started here is closed at the end.

    Raises InputError if its package is missing, no scheduler answers at the address, or the cluster does not start.
    """
    import dask
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    address = profile.scheduler_address
    if address is not None:
        try:
            client = Client(address, timeout=WAIT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            line = f"expected a scheduler at {address}, received no answer ({reason}); check the address"
            raise InputError(line) from None
        with client:
            yield client
        return
    assert profile.cluster is not None
    # Workers keep the memory they have used: new pages cost more than the arithmetic.
    key = "distributed.nanny.pre-spawn-environ"
    memory = dask.config.set({key: {**dask.config.get(key), **MEMORY_SETTINGS}})
    with silence_logging_cmgr(logging.CRITICAL), memory, _start_cluster(profile.cluster, workers) as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _start_cluster(settings: dict[str, Any], workers: int | None) -> Iterator[Any]:
    """Yield a cluster of a listed class with the requested number of workers."""
    options = {key: value for key, value in settings.items() if key != "type"}
    module, _, name = str(settings["type"]).rpartition(".")
    try:
        cluster_class = getattr(importlib.import_module(module), name)
    except ImportError:
        raise InputError(f"expected the package {module}, received none; {EXTRA}") from None
    if name == "LocalCluster":
        defaults = {"threads_per_worker": 1, "dashboard_address": ANY_PORT, "silence_logs": 50}
        fixed = {"processes": True} if workers is None else {"processes": True, "n_workers": workers}
        options = {**defaults, **options, **fixed}
    elif module == "dask_cuda":
        options = {"dashboard_address": ANY_PORT, **options}
    else:
        options["scheduler_options"] = {"dashboard_address": ":0", **options.get("scheduler_options", {})}
    try:
        # Only this process handles signals; it ends its workers.
        with shield_children():
            cluster = cluster_class(**options)
    except DownscaleError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected to start a cluster of type {settings['type']}, received: {reason}") from None
    try:
        if module == "dask_jobqueue" and (workers is not None or "n_workers" not in options):
            cluster.scale(workers or 1)
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.close(timeout=5)


def compute_on_cluster(
    client: Any, function: Callable[[Any], Any], tasks: Sequence[Any], keys: Sequence[str], advance: Callable[[], None]
) -> list[Any]:
    """Return ``function(task)`` for each task, in order, computed on a cluster: one per process at a time.

    Raises Stopped if the cluster was lost or a block failed with every worker, else the first error of a worker.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError
    from distributed.comm import CommClosedError

    results: dict[int, Any] = {}
    waiting = list(range(len(tasks)))[::-1]
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max(_count_workers(client), 1):
                index = waiting.pop()
                running[client.submit(function, tasks[index], pure=False, key=keys[index])] = index
            for future in wait_for_futures(client, list(running)):
                results[running.pop(future)] = future.result()
                # A block that is not released would start again if its worker is lost.
                future.release()
                advance()
            raise_if_signalled()
    except KilledWorker as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        line = f"a block was lost with every worker that tried it ({reason}); give workers more memory"
        raise Stopped(line) from None
    except (FutureCancelledError, FuturesCancelledError, CommClosedError, OSError) as error:
        # Disk errors of a block are passed on; a lost connection is an error of the cluster.
        if isinstance(error, OSError) and not isinstance(error, CommClosedError) and client.status == "running":
            raise
        raise Stopped("the scheduler of the cluster was lost") from error
    finally:
        if running and client.status == "running":
            client.cancel(list(running), force=True)
    return [results[i] for i in range(len(tasks))]


def wait_for_futures(client: Any, futures: list[Any]) -> set[Any]:
    """Return the finished futures; none if that takes longer than the interval of looking for workers."""
    from distributed import wait

    with client.as_current():
        try:
            return set(wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return set()


def _count_workers(client: Any) -> int:
    """Return the number of workers, or raise an error if the scheduler is lost."""
    if client.status != "running":
        raise TimeoutError(f"the client is {client.status}")
    return len(client.scheduler_info(n_workers=-1)["workers"])
