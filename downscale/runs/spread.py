"""Distribution of blocks over the workers of a cluster, one per process at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from downscale.process.interrupts import Stopped, go_on
from downscale.runs.work import Work, carry_out_here

# Interval of looking for new workers.
LOOK_SECONDS = 1.0


def make_block(work: Work) -> dict[str, Any]:
    """Compute a block on this worker."""
    from distributed import get_worker

    return carry_out_here(work, get_worker().state.nthreads)


def spread(client: Any, works: list[Work], tell: Callable[[], None]) -> list[dict[str, Any]]:
    """Return the result of each piece of work, in order.

    Raises
    ------
    Stopped
        If the cluster was lost, or a block failed with every worker that tried it.
    Exception
        The first error of a worker.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError
    from distributed.comm import CommClosedError

    made: dict[int, dict[str, Any]] = {}
    waiting = list(enumerate(works))[::-1]
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max(_processes(client), 1):
                index, work = waiting.pop()
                running[client.submit(make_block, work, pure=False, key=f"block-{index}-{work.request[:12]}")] = index
            for future in _finished(client, list(running)):
                made[running.pop(future)] = future.result()
                tell()
            go_on()
    except KilledWorker as error:
        line = f"a block was lost with every worker that tried it ({_first_line(error)}); give workers more memory"
        raise Stopped(line) from None
    except (FutureCancelledError, FuturesCancelledError, CommClosedError, OSError) as error:
        # Disk errors of a block are passed on; a lost connection is an error of the cluster.
        if isinstance(error, OSError) and not isinstance(error, CommClosedError) and _answers(client):
            raise
        raise Stopped("the scheduler of the cluster was lost") from error
    finally:
        _abandon(client, list(running))
    return [made[i] for i in range(len(works))]


def _finished(client: Any, futures: list[Any]) -> set[Any]:
    """Return the finished futures; none if that takes longer than the interval of looking for workers."""
    from distributed import wait

    with client.as_current():
        try:
            return set(wait(futures, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return set()


def _processes(client: Any) -> int:
    """Return the number of workers, or raise an error if the scheduler is lost."""
    if client.status != "running":
        raise TimeoutError(f"the client is {client.status}")
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _answers(client: Any) -> bool:
    return client.status == "running"


def _abandon(client: Any, futures: list[Any]) -> None:
    if futures and _answers(client):
        client.cancel(futures, force=True)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
