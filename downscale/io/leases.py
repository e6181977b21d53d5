"""Signs of life of files that are being made, and who left those that show none (the standard library, psutil)."""

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

# A living process touches its files this often; one that cannot be looked up and was silent for so long is no more.
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
    """Touch a file or folder again and again within this block, if it is there."""
    _BEATS.add(path)
    try:
        yield
    finally:
        _BEATS.drop(path)


@contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """Give a temporary name beside ``target`` that shows signs of life, and is removed if the process is ended."""
    scratch = scratch_name(target)
    with half_made(scratch), alive(scratch):
        yield scratch


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``target``; what lies there is flushed and renamed, or removed."""
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
    """Return whether the process that makes, or holds, a file is no more: looked up here, by its silence elsewhere."""
    import psutil

    try:
        changed = path.stat().st_mtime
        if host != this_host():
            return time.time() - changed > SILENT_SECONDS
        process = psutil.Process(pid)
        # A number that is used again belongs to a younger process.
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > changed + 1
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def left_of(path: Path) -> str | None:
    """Return the name of the output of which a temporary file was left by a process that is no more, else None."""
    found = SCRATCH.fullmatch(path.name)
    return found["name"] if found and gone(found["host"], int(found["pid"]), path) else None


def bring_back(target: Path) -> None:
    """Give a store its name again that a process lost between two renames, which was killed there."""
    old = [path for path in target.parent.glob(".*.old") if left_of(path) == target.name]
    if old and not target.exists():
        os.replace(max(old, key=lambda path: path.stat().st_mtime), target)
    for path in old:
        remove(path)
