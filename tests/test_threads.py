"""Threads of a field in memory follow what Dask is set to."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import dask
import pytest
from dask.system import CPU_COUNT
from sample_fields import field_on, region, same_bits

from downscale.errors import OptionError
from downscale.process.computing import threads, use_temporary_threads, workers

VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment lowers the number."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


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
def test_threads_are_those_of_dask(unset: None, setting: dict[str, Any], expected: int) -> None:
    ds = field_on(region(8, 9), 2)
    with dask.config.set(setting):
        assert workers() == threads() == expected
        fine = ds.downscale(2)
    assert same_bits(fine.tas, ds.downscale(2).tas)


BUSY = """
import os, sys, time
import dask, numpy as np
import downscale
from sample_fields import field_on, world

def times():
    names = os.listdir("/proc/self/task")
    return {name: int(open(f"/proc/self/task/{name}/schedstat").read().split()[0]) for name in names}

def busy(call):
    before, begin = times(), time.process_time_ns()
    call()
    total, after = time.process_time_ns() - begin, times()
    burnt = [after[name] - before.get(name, 0) for name in after]
    burnt.append(total - sum(burnt))  # by threads that have ended
    return sum(part > 0.15 * total for part in burnt)

ds = field_on(world(120, 160), 48, dtype="float32")  # the graph of Dask takes little of the time
for engine in ("numba", "torch"):
    for setting in eval(sys.argv[1]):
        with downscale.set_options(engine=engine), dask.config.set(setting):
            calls = [lambda: ds.downscale(4)] + [ds.chunk(time=8).downscale(4).compute] * bool(setting)
            for warm in (ds.isel(time=[0]), ds.isel(time=[0]).chunk()):
                warm.downscale(4).compute()
            print(*(busy(call) for call in calls))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="no account of the time of threads here")
@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"OMP_NUM_THREADS": "1"}, [{}]),
        ({"NUMBA_NUM_THREADS": "1"}, [{}]),
        ({}, [{"num_workers": 1}, {"scheduler": "synchronous"}]),
    ],
    ids=str,
)
def test_one_thread_is_one_thread(variables: dict[str, str], settings: list[dict[str, Any]]) -> None:
    plain = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    environment = {**plain, **variables, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", BUSY, repr(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"1"}


@pytest.mark.parametrize("number", [-1, "4", 2.5, True])
def test_numbers_of_workers_that_are_none_are_refused(number: Any) -> None:
    with dask.config.set(num_workers=number):
        for asked in (workers, use_temporary_threads().__enter__):
            with pytest.raises(OptionError, match="num_workers"):
                asked()


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize(("setting", "expected"), [("1", 1), ("2", 2), ("64", 3), ("2,4", 2), ("many", 3)])
def test_variables_lower_the_number(
    unset: None, monkeypatch: pytest.MonkeyPatch, name: str, setting: str, expected: int
) -> None:
    monkeypatch.setenv(name, setting)
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
