"""Provenance of a model: hashes of data and recipe, and a description of each source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.training.pairs import Source
from downscale.training.schema import TrainingRecipe
from downscale.training.split import Sides, iso

PIECE = 1 << 16
# Largest number of bytes hashed whole. Larger data are sampled, because hashing an archive takes longer than reading.
MOST_BYTES = 1 << 28
# Largest number of files sampled, and of files sampled within one store.
MOST_FILES, MOST_CHUNKS = 512, 256


def data_hash(files: Iterable[str]) -> str:
    """Return the SHA-256 of the content of files, independent of their names; large files are sampled.

    Examples
    --------
    >>> data_hash([])[:15]
    'sha256:e3b0c442'
    """
    paths = [Path(path) for path in dict.fromkeys(files)]
    every = [file for path in paths for file in _files_of(path)]
    whole = sum(file.stat().st_size for file in every) <= MOST_BYTES
    digests = sorted(_digest(file) for file in every) if whole else sorted(file_digests(map(str, paths)))
    word = "sha256" if whole else "sha256 of samples"
    return f"{word}:{hashlib.sha256(''.join(digests).encode()).hexdigest()}"


def file_digests(files: Iterable[str]) -> list[str]:
    """Return a digest of each existing file, from its size and samples of its bytes.

    At most ``MOST_FILES`` files are sampled, evenly chosen. The digest does not depend on the path.
    """
    paths = [path for path in map(Path, dict.fromkeys(files)) if path.exists()]
    return [_sampled(path) for path in _some(paths, MOST_FILES)]


def _some(items: Sequence[Any], most: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[i] for i in places]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    return [path] if path.is_file() else []


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sampled(path: Path) -> str:
    """Return the hash of a file or store from its size and a few samples of its content."""
    inside = _files_of(path)
    digest = hashlib.sha256(f"{len(inside)} {sum(file.stat().st_size for file in inside)}".encode())
    count = 5 if len(inside) == 1 else 1
    for file in _some(inside, MOST_CHUNKS):
        size = file.stat().st_size
        with file.open("rb") as stream:
            for start in np.linspace(0, max(size - PIECE, 0), count).astype(int):
                stream.seek(int(start))
                digest.update(stream.read(PIECE))
    return digest.hexdigest()


def recipe_identity(recipe: TrainingRecipe, data: str) -> str:
    """Return a hash of the recipe and data of a training, independent of the device and the title.

    A run can resume on other devices, but not with other patches, weights or steps.
    """
    content = recipe.model_dump(mode="json")
    for key in ("output", "title", "description", "licence", "attribution"):
        content.pop(key)
    for key in ("accelerator", "devices", "num_nodes", "strategy", "workers", "save_every", "logger"):
        content["training"].pop(key)
    if recipe.training.clock == "wall":
        # Recipes without this key hash as they did before it existed.
        content["training"].pop("clock")
    return hashlib.sha256(json.dumps([content, data], sort_keys=True).encode()).hexdigest()


def describe_source(source: Source, sides: Sides) -> dict[str, Any]:
    """Return the description of a source for a checkpoint, as plain values."""
    attrs = source.outputs[0].maps.attrs
    dates = [] if source.dates is None else [str(source.dates.min()), str(source.dates.max())]
    return {
        "label": source.label,
        "coarse_file": source.pair.coarse,
        "fine_shape": list(source.fine.shape),
        "coarse_shape": list(source.grid.shape),
        "fine_axes": axes_of(source.fine),
        "dates": dates,
        "train_dates": runs_of(source.dates, sides.train),
        "validation_dates": runs_of(source.dates, sides.validation),
        "file_hashes": file_digests(source.files),
        "train_maps": int(source.maps_of(sides.train).size),
        "validation_maps": int(source.maps_of(sides.validation).size),
        "long_name": str(attrs.get("long_name", attrs.get("standard_name", ""))),
        "licence": source.licence,
    }


def runs_of(dates: NDArray[Any] | None, chosen: NDArray[np.int64]) -> list[list[str]]:
    """Return the first and last date of each uninterrupted run of chosen times.

    Examples
    --------
    >>> dates = np.arange("2000-01-01", "2000-01-06", dtype="M8[D]").astype("M8[ns]")
    >>> runs_of(dates, np.array([0, 1, 4]))
    [['2000-01-01T00:00:00', '2000-01-02T00:00:00'], ['2000-01-05T00:00:00', '2000-01-05T00:00:00']]
    """
    if dates is None or chosen.size == 0:
        return []
    order = np.argsort(dates, kind="stable")
    inside = np.isin(order, chosen)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    return [[iso(dates[order[first]]), iso(dates[order[last - 1]])] for first, last in edges.reshape(-1, 2)]


def axes_of(grid: Any) -> list[dict[str, Any]] | None:
    """Return kind, range and mean step of both axes, in degrees or metres; None for a grid without axes."""
    y, x = getattr(grid, "y", None), getattr(grid, "x", None)
    return None if y is None or x is None else [_axis(y), _axis(x)]


def _axis(axis: Any) -> dict[str, Any]:
    edges = np.asarray(axis.edges)
    step = float(np.abs(np.diff(edges)).mean())
    return {"kind": axis.kind, "from": float(edges[0]), "to": float(edges[-1]), "step": step}
