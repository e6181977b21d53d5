"""Temporary files and lock files with a heartbeat, and detection of those left by dead processes."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from downscale.errors import OutputError
from downscale.io.paths import flush, remove, scratch_name, this_host
from downscale.process.interrupts import register_draft

# Interval of the heartbeat, and the silence after which a process on another machine counts as dead.
BEAT_SECONDS, SILENT_SECONDS = 20.0, 600.0
SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<host>[^./]+)-(?P<pid>\d+)-[0-9a-f]{8}\.(?:part|old)")
ATTEMPTS = 5
LISTEN_SECONDS, POLL_SECONDS = 2.5 * BEAT_SECONDS, 0.2


@contextmanager
def keep_alive(path: Path) -> Iterator[None]:
    """Touch a file or folder regularly within this block, if it exists."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, name="signs-of-life", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary name for ``target`` with a heartbeat; it is removed if the process is ended."""
    scratch = scratch_name(target)
    with register_draft(scratch), keep_alive(scratch):
        yield scratch


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``target``; its file is flushed and renamed, or removed on error."""
    with scratch_beside(target) as scratch:
        try:
            yield scratch
            flush(scratch)
            os.replace(scratch, target)
            flush(target.parent)
        finally:
            with suppress(FileNotFoundError):
                scratch.unlink()


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Convert errors of the operating system about a full or broken disk to one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"expected to write {target}, received: {reason}; free space or choose another") from error


def is_dead(host: str, pid: int, path: Path) -> bool:
    """Return whether the process of a file is dead: by process number on this machine, by silence on others."""
    import psutil

    try:
        modified_time = path.stat().st_mtime
        if host != this_host():
            return time.time() - modified_time > SILENT_SECONDS
        process = psutil.Process(pid)
        # A reused process number belongs to a younger process.
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > modified_time + 1
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def orphan_target(path: Path) -> str | None:
    """Return the name of the output of a temporary file left by a dead process, else None."""
    match = SCRATCH.fullmatch(path.name)
    return match["name"] if match and is_dead(match["host"], int(match["pid"]), path) else None


def restore_store(target: Path) -> None:
    """Restore the name of a store after a process was killed between two renames."""
    old = [path for path in target.parent.glob(".*.old") if orphan_target(path) == target.name]
    if old and not target.exists():
        os.replace(max(old, key=lambda path: path.stat().st_mtime), target)
    for path in old:
        remove(path)


def lock_path(target: Path) -> Path:
    """Return the path of the lock file of an output."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def lock_output(target: Path) -> Iterator[None]:
    """Keep other runs from an output within this block; locks of dead runs are taken over."""
    path, token = lock_path(target), uuid.uuid4().hex
    _acquire_lock(path, target, token)
    with register_draft(path), keep_alive(path):
        try:
            yield
        finally:
            if _read_lock(path).get("token") == token:
                path.unlink(missing_ok=True)


def require_no_run(target: Path) -> None:
    """Raise an OutputError if a run holds the lock of an output."""
    path = lock_path(target)
    facts = _read_lock(path)
    is_local = facts.get("host") == this_host() and isinstance(facts.get("pid"), int)
    if path.exists() and (not is_dead(this_host(), facts["pid"], path) if is_local else _has_heartbeat(path)):
        pid, machine, since = (facts.get(key, "?") for key in ("pid", "machine", "since"))
        raise OutputError(
            f"expected no other run of {target}, received that of process {pid} on {machine} since {since}; wait for "
            f"it, or remove {path} if it is no more"
        )


def _acquire_lock(path: Path, target: Path, token: str) -> None:
    machine, since = os.uname().nodename, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = {"host": this_host(), "machine": machine, "pid": os.getpid(), "token": token, "since": since}
    for _ in range(ATTEMPTS):
        try:
            with path.open("x", encoding="utf-8") as file:
                try:
                    file.write(json.dumps(facts))
                    file.flush()
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
            return
        except FileExistsError:
            require_no_run(target)
            _remove_dead_lock(path, token)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"expected to write {path}, received: {reason}; free space or choose another") from error
    raise OutputError(f"expected to lock {target}, received a lock that others take at once; try again")


def _remove_dead_lock(path: Path, token: str) -> None:
    """Remove the lock of a dead run; if two processes try, one succeeds."""
    facts, moved_path = _read_lock(path), path.with_name(f"{path.name}.{token[:8]}")
    with suppress(FileNotFoundError):
        path.rename(moved_path)
        if _read_lock(moved_path) != facts:
            # Another run has taken it over.
            with suppress(FileExistsError):
                os.link(moved_path, path)
        moved_path.unlink()


def _read_lock(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        facts = json.loads(path.read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}
    return {}


def _has_heartbeat(path: Path) -> bool:
    """Wait for a heartbeat of a run on another machine, whatever its clock."""
    with suppress(FileNotFoundError):
        time_ns = path.stat().st_mtime_ns
        if time.time() - time_ns / 1e9 > SILENT_SECONDS:
            return False
        end = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            if path.stat().st_mtime_ns != time_ns:
                return True
    return False
