"""Where a model comes from: the bytes it learned from, the recipe, and what is said of each source (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from downscale.train.pairs import Source
from downscale.train.schema import TrainingRecipe
from downscale.train.split import Sides

PIECE = 1 << 20
# Beyond this much, the ends of each file and its size stand for it: hashing an archive takes longer than reading it.
MOST_BYTES = 8 << 30


def data_hash(files: Iterable[str]) -> str:
    """Return the SHA-256 of files, by content and not by name.

    Examples
    --------
    >>> data_hash([])[:15]
    'sha256:e3b0c442'
    """
    every = [file for path in dict.fromkeys(files) for file in _files_of(Path(path))]
    whole = sum(file.stat().st_size for file in every) <= MOST_BYTES
    digests = sorted(_digest(file, whole) for file in every)
    word = "sha256" if whole else "sha256 of the ends"
    return f"{word}:{hashlib.sha256(''.join(digests).encode()).hexdigest()}"


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.rglob("*") if each.is_file())
    elif path.is_file():
        yield path


def _digest(file: Path, whole: bool) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        if whole:
            while piece := stream.read(PIECE):
                digest.update(piece)
        else:
            size = file.stat().st_size
            digest.update(str(size).encode() + stream.read(PIECE))
            stream.seek(max(size - PIECE, 0))
            digest.update(stream.read(PIECE))
    return digest.hexdigest()


def recipe_identity(recipe: TrainingRecipe, data: str) -> str:
    """Return a hash of all that makes a training what it is: not where it runs, nor what it is called.

    A run may be resumed on other devices, but not with other patches, weights or steps.
    """
    content = recipe.model_dump(mode="json")
    for key in ("output", "title", "description", "licence", "attribution"):
        content.pop(key)
    for key in ("accelerator", "devices", "num_nodes", "strategy", "workers", "save_every", "logger"):
        content["training"].pop(key)
    if recipe.training.clock == "wall":
        # As it was before there was another.
        content["training"].pop("clock")
    return hashlib.sha256(json.dumps([content, data], sort_keys=True).encode()).hexdigest()


def describe_source(source: Source, sides: Sides) -> dict[str, Any]:
    """Return what a checkpoint tells of a source, as plain values."""
    y, x = source.fine.y if hasattr(source.fine, "y") else None, getattr(source.fine, "x", None)
    axes = None if y is None or x is None else [_axis(y), _axis(x)]
    attrs = source.outputs[0].maps.attrs
    dates = [] if source.dates is None else [str(source.dates.min()), str(source.dates.max())]
    return {
        "label": source.label,
        "coarse_file": source.pair.coarse,
        "fine_shape": list(source.fine.shape),
        "coarse_shape": list(source.grid.shape),
        "fine_axes": axes,
        "dates": dates,
        "train_maps": int(source.maps_of(sides.train).size),
        "validation_maps": int(source.maps_of(sides.validation).size),
        "long_name": str(attrs.get("long_name", attrs.get("standard_name", ""))),
        "licence": source.licence,
    }


def _axis(axis: Any) -> dict[str, Any]:
    """Return kind, range and mean step of an axis, in degrees or metres."""
    edges = np.asarray(axis.edges)
    step = float(np.abs(np.diff(edges)).mean())
    return {"kind": axis.kind, "from": float(edges[0]), "to": float(edges[-1]), "step": step}
