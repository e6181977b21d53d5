"""Dask schedulers for tests: one that counts computations, and one that must never be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import dask.local


class CountingScheduler:
    """Compute in this thread; refuse after ``most`` computations."""

    def __init__(self, most: int) -> None:
        self.count, self.most = 0, most

    def __call__(self, graph: Any, keys: Any, **options: Any) -> Any:
        self.count += 1
        if self.count > self.most:
            raise AssertionError(f"expected at most {self.most} computations, asked for one more")
        return dask.local.get_sync(graph, keys, **options)


@contextmanager
def computations(most: int = 0) -> Iterator[CountingScheduler]:
    """Within this context, anything that computes more than ``most`` times fails."""
    scheduler = CountingScheduler(most)
    with dask.config.set(scheduler=scheduler):
        yield scheduler
