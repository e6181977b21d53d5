"""Seals: what a finished file was made of and its checksum, in a small hidden file beside it (trusts no file name).

A seal holds only if the request, the inputs, the range of steps and every byte of the file are what it says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from downscale.io.leases import left_of, temporary_beside
from downscale.io.library import plain_file
from downscale.io.outputs import flush, remove
from downscale.io.paths import address_of
from downscale.runs.recipe import Recipe
from downscale.version import __version__

FORMAT = 1
# What says where results go and who computes them, not what they are.
ELSEWHERE = {"title", "description", "dask"}
# What of the output changes what is stored.
STORED = ("complevel", "packing", "profile", "attrs", "encoding")
BUFFER = 1 << 22
HEADS = (b"\x89HDF", b"CDF")
OWN_HISTORY = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z downscale ")
# Of small inputs every byte counts, of others so many pieces, spread over the file; fewer of each where they are many.
WHOLE_BYTES, WHOLE_FILES = 16_000_000, 16
SAMPLE_BYTES, MOST_SAMPLES, FEWEST_SAMPLES, ALL_SAMPLES = 65_536, 64, 2, 512


def identity(files: Iterable[str]) -> list[list[Any]]:
    """Return name, size, time of change and a checksum of samples of input files; of a folder, of all that is in it.

    Size and time alone are those of another file after ``cp -p`` or ``touch -r``.
    """
    inside: dict[Path, list[Path]] = {}
    files = list(files)
    for path in (Path(name).resolve() for name in files if address_of(name) is None):
        inside[path] = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    count = sum(map(len, inside.values()))
    # Of very many files, such as the chunks of a store, some stand for the others.
    step = -(-count // ALL_SAMPLES)
    made: list[list[Any]] = [[name] for name in files if address_of(name) is not None]
    for path, found in inside.items():
        stats = [file.stat() for file in found]
        digest = hashlib.sha256()
        for i, (file, own) in enumerate(zip(found, stats, strict=True)):
            digest.update(f"{file.relative_to(path)} {own.st_size}\n".encode())
            if i % step == 0:
                _sample(file, own.st_size, count, digest)
        latest = max((own.st_mtime_ns for own in stats), default=0)
        made.append([str(path), sum(own.st_size for own in stats), latest, digest.hexdigest()])
    return sorted(made)


def _sample(file: Path, size: int, count: int, digest: Any) -> None:
    """Add the bytes of a file to a checksum, or pieces of it from its beginning to its end."""
    with file.open("rb") as stream:
        if size <= SAMPLE_BYTES or (size <= WHOLE_BYTES and count <= WHOLE_FILES):
            digest.update(stream.read())
            return
        pieces = min(max(ALL_SAMPLES // count, FEWEST_SAMPLES), MOST_SAMPLES)
        for i in range(pieces):
            stream.seek((size - SAMPLE_BYTES) * i // (pieces - 1))
            digest.update(stream.read(SAMPLE_BYTES))


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


def is_own(path: Path) -> bool:
    """Return whether a file was made by this program: by what it says itself, or where it is damaged by its seal."""
    try:
        with plain_file(path) as file:
            # Whoever changes a file says so on top of its history.
            return OWN_HISTORY.match(str(getattr(file, "history", ""))) is not None
    except (OSError, RuntimeError):
        return _is_damaged(path)


def _is_damaged(path: Path) -> bool:
    """Return whether a file that has a seal is the rest of one that had the format of NetCDF."""
    try:
        facts = json.loads(seal_path(path).read_text(encoding="utf-8"))
        with path.open("rb") as file:
            head = file.read(4)
        return facts["file"] == path.name and (head.startswith(HEADS) or not head.strip(b"\0"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


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
            if left_of(path) in names:
                with suppress(FileNotFoundError):
                    remove(path)
                    gone.append(path)
    return gone


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
