"""Fixtures shared by all tests: real data where present, a counting scheduler, hypothesis profiles."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples at every run, so that a green suite stays green; "explore" draws new ones, to look for faults.
settings.register_profile(
    "default",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", parent=settings.get_profile("default"), max_examples=40)
# The slow lane (make test-laws): a thousand examples, the same at every run too.
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000, print_blob=True)
settings.register_profile("explore", parent=settings.get_profile("default"), max_examples=300, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

# A suite that was started by nohup or in the background ignores these, and so would every process that it starts.
if threading.current_thread() is threading.main_thread():
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)

DATA = Path(os.environ.get("DOWNSCALE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """Path of a real field used by the tests; skips the test where the file is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real field {name} is not at {DATA} (set DOWNSCALE_TEST_DATA to its folder)")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: handing tiny fields to several takes ten times the arithmetic."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
