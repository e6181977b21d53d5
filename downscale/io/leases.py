"""Heartbeats of temporary files, and detection of files left by dead processes."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from downscale.io.outputs import flush, remove, scratch_name, this_host
from downscale.process.interrupts import half_made

# Interval of the heartbeat, and the silence after which a process on another machine counts as dead.
BEAT_SECONDS, SILENT_SECONDS = 20.0, 600.0
SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<host>[^./]+)-(?P<pid>\d+)-[0-9a-f]{8}\.(?:part|old)")


class _Beats:
    """One thread that touches files as long as there are any."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()
        self.lock = threading.Lock()
        self.stop = threading.Event()

    def add(self, path: Path) -> None:
        with self.lock:
            if not self.paths:
                self.stop = threading.Event()
                threading.Thread(target=self.run, args=(self.stop,), name="signs-of-life", daemon=True).start()
            self.paths.add(path)

    def drop(self, path: Path) -> None:
        with self.lock:
            self.paths.discard(path)
            if not self.paths:
                self.stop.set()

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            for path in list(self.paths):
                with suppress(OSError):
                    os.utime(path)


_BEATS = _Beats()


@contextmanager
def alive(path: Path) -> Iterator[None]:
    """Touch a file or folder regularly within this block, if it exists."""
    _BEATS.add(path)
    try:
        yield
    finally:
        _BEATS.drop(path)


@contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary name for ``target`` with a heartbeat; it is removed if the process is ended."""
    scratch = scratch_name(target)
    with half_made(scratch), alive(scratch):
        yield scratch


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``target``; its file is flushed and renamed, or removed on error."""
    with made_beside(target) as scratch:
        try:
            yield scratch
            flush(scratch)
            os.replace(scratch, target)
            flush(target.parent)
        finally:
            with suppress(FileNotFoundError):
                scratch.unlink()


def gone(host: str, pid: int, path: Path) -> bool:
    """Return whether the process of a file is dead: by process number on this machine, by silence on others."""
    import psutil

    try:
        changed = path.stat().st_mtime
        if host != this_host():
            return time.time() - changed > SILENT_SECONDS
        process = psutil.Process(pid)
        # A reused process number belongs to a younger process.
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > changed + 1
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def left_of(path: Path) -> str | None:
    """Return the name of the output of a temporary file left by a dead process, else None."""
    found = SCRATCH.fullmatch(path.name)
    return found["name"] if found and gone(found["host"], int(found["pid"]), path) else None


def bring_back(target: Path) -> None:
    """Restore the name of a store after a process was killed between two renames."""
    old = [path for path in target.parent.glob(".*.old") if left_of(path) == target.name]
    if old and not target.exists():
        os.replace(max(old, key=lambda path: path.stat().st_mtime), target)
    for path in old:
        remove(path)
