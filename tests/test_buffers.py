"""Memory that is used again, and freed with the last array on it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from downscale.process import buffers
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


def test_memory_may_come_back_in_the_thread_that_holds_the_lock():
    """As when the garbage collector runs there."""
    arrays, done = [allocate((2_000_000,), F4)], threading.Event()

    def give_back():
        with buffers._lock:
            arrays.clear()
        done.set()

    threading.Thread(target=give_back, daemon=True).start()
    assert done.wait(20)


@pytest.mark.parametrize("step", range(8))
def test_memory_may_come_back_while_some_is_taken(step, monkeypatch):
    """The garbage collector may free an array at any line, and with it any idle memory."""
    monkeypatch.setattr(buffers, "_idle", type(buffers._idle)())
    monkeypatch.setattr(buffers, "_used", {})
    kept, late, *freed = (allocate((size,), np.dtype("u1")) for size in (3_000_000, 1_500_000, 1_000_000, 2_000_000))
    arrays = [late]
    del late
    freed.clear()
    assert idle_bytes() == 3_000_000
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code is not buffers._Memory.__init__.__code__:
            return None
        if event == "line":
            if lines == step:
                arrays.clear()
            lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        taken = allocate((2_000_000,), np.dtype("u1"))
    finally:
        sys.settrace(before)
    assert taken.size == 2_000_000
    assert idle_bytes() <= kept.size + taken.size


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_memory_that_cannot_be_had_leaves_nothing():
    with pytest.raises(MemoryError):
        allocate((10**15,), F4)
    gc.collect()
    assert idle_bytes() == 0


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
