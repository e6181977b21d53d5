"""Seals: what a finished file was made of and its checksum, in a small hidden file beside it (trusts no file name).

A seal holds only if the request, the inputs, the range of steps and every byte of the file are what it says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from downscale.io.write import flush, temporary_beside, this_host
from downscale.recipe import Recipe
from downscale.version import __version__

FORMAT = 1
# What says where results go and who computes them, not what they are.
ELSEWHERE = {"title", "description", "dask"}
# What of the output changes what is stored.
STORED = ("complevel", "packing", "profile", "attrs", "encoding")
BUFFER = 1 << 22
# A temporary file of another machine is left alone for so long: its process cannot be asked for.
ABANDONED_SECONDS = 86_400.0
SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<host>[^./]+)-(?P<pid>\d+)-[0-9a-f]{8}\.part")


def identity(files: Iterable[str]) -> list[list[Any]]:
    """Return name, size and time of change of input files; of a folder, of all that is in it."""
    made = []
    for name in files:
        path = Path(name).resolve()
        inside = [Path(root) / file for root, _, names in os.walk(path) for file in names] if path.is_dir() else [path]
        stats = [file.stat() for file in inside]
        made.append([str(path), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)])
    return sorted(made)


def fingerprint(recipe: Recipe, files: Iterable[str]) -> str:
    """Return a checksum of all that the values of a run depend on: request, version and inputs."""
    content = recipe.model_dump(mode="json", by_alias=True, exclude=ELSEWHERE)
    content["output"] = {key: content["output"][key] for key in STORED}
    content["input"].pop("chunks")
    facts = {"request": content, "version": __version__, "inputs": identity(files)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def seal_path(path: Path) -> Path:
    """Return the name of the seal of a file."""
    return path.with_name(f".{path.name}.seal")


def seal(path: Path, request: str, span: tuple[int, int], report: dict[str, Any] | None) -> None:
    """Write the seal of a finished file."""
    facts = {
        "format": FORMAT, "file": path.name, "request": request, "steps": list(span), "bytes": path.stat().st_size,
        "sha256": checksum(path), "report": report,
    }  # fmt: skip
    with temporary_beside(seal_path(path)) as scratch:
        scratch.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def unseal(path: Path) -> None:
    """Remove the seal of a file that is about to change."""
    seal_path(path).unlink(missing_ok=True)


def verified(path: Path, request: str, span: tuple[int, int]) -> dict[str, Any] | None:
    """Return what the seal of a file says if every word of it holds, None otherwise."""
    try:
        facts = json.loads(seal_path(path).read_text(encoding="utf-8"))
        wanted = {"format": FORMAT, "file": path.name, "request": request, "steps": list(span)}
        if {key: facts[key] for key in wanted} != wanted or facts["bytes"] != path.stat().st_size:
            return None
        return facts if facts["sha256"] == checksum(path) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256", _bufsize=BUFFER).hexdigest()  # type: ignore[call-arg]


def sweep(targets: Iterable[Path]) -> list[Path]:
    """Remove temporary files that dead processes left beside ``targets`` and their seals, and return them."""
    targets = list(targets)
    names = {one.name for target in targets for one in (target, seal_path(target))}
    gone = []
    for folder in {target.parent for target in targets}:
        for path in sorted(folder.glob(".*.part")) if folder.is_dir() else ():
            found = SCRATCH.fullmatch(path.name)
            if found and found["name"] in names and _abandoned(path, found["host"], int(found["pid"])):
                with suppress(FileNotFoundError):
                    path.unlink()
                    gone.append(path)
    return gone


def _abandoned(path: Path, host: str, pid: int) -> bool:
    """Return whether the process that wrote a temporary file is no more."""
    import psutil

    try:
        changed = path.stat().st_mtime
        if host != this_host():
            return time.time() - changed > ABANDONED_SECONDS
        process = psutil.Process(pid)
        # A number that is used again belongs to a younger process.
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > changed + 1
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def clear(folder: Path, targets: Iterable[Path]) -> None:
    """Remove files, their seals and what dead processes left of them, then their folder if nothing else is in it."""
    targets = list(targets)
    for target in targets:
        unseal(target)
        target.unlink(missing_ok=True)
    sweep(targets)
    with suppress(OSError):
        folder.rmdir()
        flush(folder.parent)
