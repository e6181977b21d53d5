"""Memory that is used again, and freed with the last array on it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from downscale.process.buffers import IDLE_BYTES, allocate, idle_bytes

F4 = np.dtype("f4")


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_while_another_array_lives():
    shape = (300, 1000)
    other, first = allocate(shape, F4), allocate(shape, F4)
    place = address(first)
    first[:] = 1.0
    view = first[10:20]
    del first
    assert address(allocate(shape, F4)) != place  # a view is still in use
    assert (view == 1.0).all()
    del view
    assert address(allocate(shape, F4)) == place
    assert address(allocate((300, 400), F4)) != place  # a small array does not hold much memory
    assert other.shape == shape


def test_idle_memory_is_bounded():
    arrays = [allocate((40_000_000,), F4) for _ in range(5)]
    del arrays[1:]
    assert idle_bytes() <= IDLE_BYTES


RESULTS = """
import gc
import psutil
from sample_fields import field_on, world
import downscale
from downscale.process.buffers import idle_bytes

ds = field_on(world(90, 180), 24, dtype="float32")
ds.downscale(4)
gc.collect()
process = psutil.Process()
before = process.memory_info().rss
for _ in range(3):
    fine = ds.downscale(4)
assert process.memory_info().rss - before >= fine.tas.nbytes
del fine
assert idle_bytes() == 0
assert process.memory_info().rss - before < 20e6
"""


def test_the_last_result_frees_all_memory():
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", RESULTS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
