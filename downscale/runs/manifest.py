"""Manifests: the request, the inputs and the checksum of a finished file, in a small hidden file.

A file verifies only if the request, the inputs, the range of steps and all of its bytes match.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from downscale.errors import OutputError
from downscale.io.leases import orphan_target, temporary_beside
from downscale.io.library import plain_file
from downscale.io.merge import checksum, files_of
from downscale.io.paths import address_of, flush, remove, scratch_name
from downscale.process.interrupts import register_draft
from downscale.runs.recipe import Recipe
from downscale.version import __version__

FORMAT = 1
# Parts of a recipe that do not affect the values: where results are stored and computed.
NEUTRAL_KEYS = {"title", "description", "dask"}
# Output options that affect the stored values.
STORAGE_KEYS = ("complevel", "packing", "profile", "attrs", "encoding", "zarr_format")
SIGNATURES = (b"\x89HDF", b"CDF")
OWN_HISTORY = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z downscale ")
# Small inputs are read completely, others at this many places spread over the file; fewer if there are many files.
WHOLE_BYTES, WHOLE_FILES = 16_000_000, 16
SAMPLE_BYTES, MOST_SAMPLES, FEWEST_SAMPLES, ALL_SAMPLES = 65_536, 64, 2, 512


def input_identities(files: Iterable[str]) -> list[list[Any]]:
    """Return name, size, modification time and a checksum of samples of input files; for a folder, of its files.

    Size and time alone may be those of another file after ``cp -p`` or ``touch -r``.
    """
    contents: dict[Path, list[Path]] = {}
    files = list(files)
    for path in (Path(name).resolve() for name in files if address_of(name) is None):
        contents[path] = sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    count = sum(map(len, contents.values()))
    # Sample some of very many files, such as the chunks of a store.
    step = -(-count // ALL_SAMPLES)
    rows: list[list[Any]] = [[name] for name in files if address_of(name) is not None]
    for path, inner_files in contents.items():
        stats = [file.stat() for file in inner_files]
        digest = hashlib.sha256()
        for i, (file, stat) in enumerate(zip(inner_files, stats, strict=True)):
            digest.update(f"{file.relative_to(path)} {stat.st_size}\n".encode())
            if i % step == 0:
                _add_samples(file, stat.st_size, count, digest)
        latest = max((stat.st_mtime_ns for stat in stats), default=0)
        rows.append([str(path), sum(stat.st_size for stat in stats), latest, digest.hexdigest()])
    return sorted(rows)


def _add_samples(file: Path, size: int, count: int, digest: Any) -> None:
    """Add the bytes of a file, or of samples spread over it, to a checksum."""
    with file.open("rb") as stream:
        if size <= SAMPLE_BYTES or (size <= WHOLE_BYTES and count <= WHOLE_FILES):
            digest.update(stream.read())
            return
        pieces = min(max(ALL_SAMPLES // count, FEWEST_SAMPLES), MOST_SAMPLES)
        for i in range(pieces):
            stream.seek((size - SAMPLE_BYTES) * i // (pieces - 1))
            digest.update(stream.read(SAMPLE_BYTES))


def fingerprint(recipe: Recipe, files: Iterable[str]) -> str:
    """Return a checksum of everything that affects the values of a run: request, version and inputs."""
    content = recipe.model_dump(mode="json", by_alias=True, exclude=NEUTRAL_KEYS)
    content["output"] = {key: content["output"][key] for key in STORAGE_KEYS}
    content["input"].pop("chunks")
    facts = {"request": content, "version": __version__, "inputs": input_identities(files)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of a file."""
    return path.with_name(f".{path.name}.manifest")


def write_manifest(
    path: Path, request_fingerprint: str, span: tuple[int, int], report: dict[str, Any] | None,
    previous: str = "", content: Path | None = None,
) -> None:  # fmt: skip
    """Write the manifest of a finished file or store, with its checksum.

    ``content`` is its temporary name, if any, and ``previous`` the checksum of the store that it extends.
    """
    content = content or path
    facts = {
        "format": FORMAT, "file": path.name, "request": request_fingerprint, "steps": list(span),
        "bytes": _size(content), "sha256": checksum(content), "report": report,
        "previous": previous,
    }  # fmt: skip
    with temporary_beside(manifest_path(path)) as scratch:
        scratch.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def _size(path: Path) -> int:
    """Return the bytes of a file or store; raises FileNotFoundError if it does not exist."""
    return sum(file.stat().st_size for file in files_of(path))


def read_checksum(path: Path) -> str:
    """Return the checksum in the manifest of a finished file, empty without a readable manifest."""
    return str(_read_facts(path).get("sha256", ""))


def checked_store(path: Path) -> str:
    """Return the checksum of a store; raises an OutputError if its manifest has another.

    A process that is killed while it extends a store leaves the new manifest beside the old store.
    """
    facts, received = _read_facts(path), checksum(path)
    if facts and received not in (facts.get("sha256"), facts.get("previous")):
        raise OutputError(
            f"expected {path} as it was checked, received other bytes; write it again, or remove "
            f"{manifest_path(path)} if the change is meant"
        )
    return received


def _read_facts(path: Path) -> dict[str, Any]:
    """Return the content of the manifest of a file, empty if it cannot be read."""
    try:
        facts = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def remove_manifest(path: Path) -> None:
    """Remove the manifest of a file that is about to change."""
    manifest_path(path).unlink(missing_ok=True)


def read_manifest(path: Path, request_fingerprint: str, span: tuple[int, int]) -> dict[str, Any] | None:
    """Return the manifest of a file if all of it matches, None otherwise."""
    facts = _read_facts(path)
    expected = {"format": FORMAT, "file": path.name, "request": request_fingerprint, "steps": list(span)}
    try:
        if {key: facts.get(key) for key in expected} != expected or facts.get("bytes") != _size(path):
            return None
        return facts if facts.get("sha256") == checksum(path) else None
    except OSError:
        return None


def is_own(path: Path) -> bool:
    """Return whether a file or store is from this package, by its history or, if damaged, by its manifest."""
    if path.is_dir():
        return OWN_HISTORY.match(str(_store_attributes(path).get("history", ""))) is not None
    try:
        with plain_file(path) as file:
            # A tool that changes a file prepends a line to its history.
            return OWN_HISTORY.match(str(getattr(file, "history", ""))) is not None
    except (OSError, RuntimeError):
        return _is_damaged(path)


def _store_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store of either format, empty if they cannot be read."""
    for name in (".zattrs", "zarr.json"):
        with suppress(OSError, ValueError, RecursionError):
            facts = json.loads((path / name).read_text(encoding="utf-8"))
            return dict(facts if name == ".zattrs" else facts.get("attributes", {}))
    return {}


def _is_damaged(path: Path) -> bool:
    """Return whether a file with a manifest is the damaged rest of a NetCDF file."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return _read_facts(path).get("file") == path.name and (head.startswith(SIGNATURES) or not head.strip(b"\0"))


def sweep(targets: Iterable[Path]) -> list[Path]:
    """Remove temporary files that dead processes left for ``targets`` and their manifests, and return them."""
    targets = list(targets)
    names = {file.name for target in targets for file in (target, manifest_path(target))}
    leftovers = []
    for folder in {target.parent for target in targets}:
        for path in sorted(folder.glob(".*.part")) if folder.is_dir() else ():
            if orphan_target(path) in names:
                with suppress(FileNotFoundError):
                    remove(path)
                    leftovers.append(path)
    return leftovers


def clear(folder: Path, targets: Iterable[Path]) -> None:
    """Remove files, their manifests and temporary files of dead processes, then their folder if it is empty."""
    targets = list(targets)
    for target in targets:
        remove_manifest(target)
        if target.is_dir():
            # A store vanishes at once; its files are removed under a temporary name.
            with register_draft(scratch_name(target)) as scratch:
                target.rename(scratch)
                remove(scratch)
        else:
            target.unlink(missing_ok=True)
    sweep(targets)
    with suppress(OSError):
        folder.rmdir()
        flush(folder.parent)
