"""Retries of transient errors of shared file systems; full disks and invalid requests fail at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from typing import Any

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# Stale handles, broken transfers and busy files are transient; lack of space or permission is not.
PASSING = {errno.ESTALE, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}


def passing(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, is transient.

    Examples
    --------
    >>> passing(OSError(errno.ESTALE, "stale")), passing(OSError(errno.ENOSPC, "full"))
    (True, False)
    """
    fault = next((one for one in _causes(error) if isinstance(one, OSError)), None)
    return fault is not None and (isinstance(fault, TimeoutError) or fault.errno in PASSING)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # The context is the original error, even if it is suppressed in tracebacks.
        error = error.__cause__ or error.__context__


def retried(task: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``task(*arguments)``, retried a few times with growing waits on transient file system errors."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    again = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(passing),
        before_sleep=_tell,
        reraise=True,
    )
    return again(task, *arguments)


def _tell(state: Any) -> None:
    error = " ".join(str(state.outcome.exception()).split())
    wait = state.next_action.sleep
    print(f"downscale: {error}; trying again in {wait:.0f} s ({state.attempt_number} of {ATTEMPTS})", file=sys.stderr)
