"""Threads of a field in memory follow what Dask is set to."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import pytest
from dask.system import CPU_COUNT
from sample_fields import field_on, region, same_bits

from downscale.engine import fused
from downscale.engine.memory import threads
from downscale.errors import OptionError
from downscale.process.computing import threads_that_end, workers


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pools that the compiled pass opens."""
    seen: list[int] = []

    def opened(count: int) -> ThreadPoolExecutor:
        seen.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(fused, "ThreadPoolExecutor", opened)
    return seen


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, CPU_COUNT),
        ({"num_workers": 3}, 3),
        ({"pool": 5}, 5),
        ({"num_workers": 1}, 1),
        ({"scheduler": "synchronous"}, 1),
        ({"scheduler": "sync", "num_workers": 4}, 1),
        ({"scheduler": "single-threaded"}, 1),
        ({"scheduler": "threads", "num_workers": 4}, 4),
    ],
    ids=str,
)
def test_threads_are_those_of_dask(pools: list[int], setting: dict[str, Any], expected: int) -> None:
    ds = field_on(region(8, 9), 2)
    with dask.config.set(setting):
        assert workers() == threads() == expected
        fine = ds.downscale(2)
    assert pools == [expected] * (expected > 1)
    assert same_bits(fine.tas, ds.downscale(2).tas)


@pytest.mark.parametrize("number", [-1, "4", 2.5, True])
def test_numbers_of_workers_that_are_none_are_refused(number: Any) -> None:
    with dask.config.set(num_workers=number):
        for asked in (workers, threads_that_end().__enter__):
            with pytest.raises(OptionError, match="num_workers"):
                asked()


@pytest.mark.parametrize(("setting", "expected"), [("1", 1), ("2", 2), ("64", 3)])
def test_the_variable_of_numba_lowers_the_number(
    monkeypatch: pytest.MonkeyPatch, setting: str, expected: int
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", setting)
    with dask.config.set(num_workers=3):
        assert threads() == expected


@pytest.mark.parametrize("setting", ["0", "-1", "many", ""])
def test_a_bad_variable_of_numba_is_one_line(setting: str) -> None:
    code = """
import downscale
from downscale.errors import OptionError
try:
    import downscale.kernels.compiled
except OptionError as error:
    print(error)
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": setting}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "NUMBA_NUM_THREADS" in done.stdout
    assert repr(setting) in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_task_of_a_cluster_takes_the_threads_of_its_worker() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(threads, pure=False).result() == 3
