"""Lock files with a heartbeat, so that only one run writes an output at a time."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from downscale.errors import OutputError
from downscale.io.leases import BEAT_SECONDS, SILENT_SECONDS, alive, gone
from downscale.io.outputs import this_host
from downscale.process.interrupts import half_made

ATTEMPTS = 5
LISTEN_SECONDS, POLL_SECONDS = 2.5 * BEAT_SECONDS, 0.2


def lock_path(target: Path) -> Path:
    """Return the path of the lock file of an output."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def only_run(target: Path) -> Iterator[None]:
    """Keep other runs from an output within this block; locks of dead runs are taken over.

    Raises
    ------
    OutputError
        If another run holds the lock.
    """
    path, token = lock_path(target), uuid.uuid4().hex
    _take(path, target, token)
    with half_made(path), alive(path):
        try:
            yield
        finally:
            if _facts(path).get("token") == token:
                path.unlink(missing_ok=True)


def require_no_run(target: Path) -> None:
    """Raise an OutputError if a run holds the lock of an output."""
    path = lock_path(target)
    facts = _facts(path)
    if path.exists() and not _abandoned(path, facts):
        pid, machine, since = (facts.get(key, "?") for key in ("pid", "machine", "since"))
        raise OutputError(
            f"expected no other run of {target}, received that of process {pid} on {machine} since {since}; wait for "
            f"it, or remove {path} if it is no more"
        )


def _take(path: Path, target: Path, token: str) -> None:
    machine, since = os.uname().nodename, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = {"host": this_host(), "machine": machine, "pid": os.getpid(), "token": token, "since": since}
    for _ in range(ATTEMPTS):
        try:
            _write(path, json.dumps(facts))
            return
        except FileExistsError:
            require_no_run(target)
            _put_away(path, token)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"expected to write {path}, received: {reason}; free space or choose another") from error
    raise OutputError(f"expected to lock {target}, received a lock that others take at once; try again")


def _write(path: Path, text: str) -> None:
    """Write a new file atomically."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _put_away(path: Path, token: str) -> None:
    """Remove the lock of a dead run; if two processes try, one succeeds."""
    before, aside = _facts(path), path.with_name(f"{path.name}.{token[:8]}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _facts(aside) != before:
            # Another run has taken it over.
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _abandoned(path: Path, facts: dict[str, Any]) -> bool:
    """Return whether the run that holds a lock is dead."""
    if facts.get("host") == this_host() and isinstance(facts.get("pid"), int):
        return gone(this_host(), facts["pid"], path)
    return not _beats(path)


def _beats(path: Path) -> bool:
    """Wait for a heartbeat of a run on another machine, whatever its clock."""
    with suppress(FileNotFoundError):
        before = path.stat().st_mtime_ns
        if time.time() - before / 1e9 > SILENT_SECONDS:
            return False
        end = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            if path.stat().st_mtime_ns != before:
                return True
    return False
