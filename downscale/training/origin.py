"""Provenance of a model: hashes of data and recipe, descriptions of sources, and times of its training.

Two sources have the same data if they share a file, by path or by content, or if cells, times and values coincide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.models.checkpoint import Record
from downscale.training.pairs import Source, Split, iso, path_of, pick_evenly, read_truth
from downscale.training.schema import TrainingRecipe

PIECE = 1 << 16
# Largest number of bytes hashed whole. Larger data are sampled, because hashing an archive takes longer than reading.
MOST_BYTES = 1 << 28
# Largest number of files sampled, and of files sampled within one store.
MOST_FILES, MOST_CHUNKS = 512, 256
# Edges of cells that differ by less than this fraction of a cell are equal.
SAME_EDGE = 0.01


def data_hash(files: Iterable[str]) -> str:
    """Return the SHA-256 of the content of files, independent of their names; large files are sampled.

    Examples
    --------
    >>> data_hash([])[:15]
    'sha256:e3b0c442'
    """
    paths = [Path(path) for path in dict.fromkeys(files)]
    all_files = [file for path in paths for file in _files_of(path)]
    is_small = sum(file.stat().st_size for file in all_files) <= MOST_BYTES
    if is_small:
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in all_files]
    else:
        digests = file_digests(map(str, paths))
    word = "sha256" if is_small else "sha256 of samples"
    return f"{word}:{hashlib.sha256(''.join(sorted(digests)).encode()).hexdigest()}"


def file_digests(files: Iterable[str]) -> list[str]:
    """Return a digest of each existing file, from its size and samples of its bytes.

    At most ``MOST_FILES`` files are sampled, evenly chosen. The digest does not depend on the path.
    """
    paths = [path for path in map(Path, dict.fromkeys(files)) if path.exists()]
    return [_sample_digest(paths[i]) for i in pick_evenly(np.arange(len(paths)), MOST_FILES)]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def _sample_digest(path: Path) -> str:
    """Return the hash of a file or store from its size and a few samples of its content."""
    files = _files_of(path)
    digest = hashlib.sha256(f"{len(files)} {sum(file.stat().st_size for file in files)}".encode())
    count = 5 if len(files) == 1 else 1
    for file in (files[i] for i in pick_evenly(np.arange(len(files)), MOST_CHUNKS)):
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
    # Recipes hash as they did before keys were added and renamed.
    content["patches"]["quiet"] = content["patches"].pop("dry_keep_fraction")
    if recipe.training.clock == "wall":
        content["training"].pop("clock")
    return hashlib.sha256(json.dumps([content, data], sort_keys=True).encode()).hexdigest()


def describe_source(source: Source, split: Split) -> dict[str, Any]:
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
        "train_dates": runs_of(source.dates, split.train),
        "validation_dates": runs_of(source.dates, split.validation),
        "file_hashes": file_digests(source.files),
        "train_maps": int(source.maps_of(split.train).size),
        "validation_maps": int(source.maps_of(split.validation).size),
        "long_name": str(attrs.get("long_name", attrs.get("standard_name", ""))),
        "licence": source.licence,
    }


def runs_of(dates: NDArray[Any] | None, times: NDArray[np.int64]) -> list[list[str]]:
    """Return the first and last date of each uninterrupted run of chosen times.

    Examples
    --------
    >>> dates = np.arange("2000-01-01", "2000-01-06", dtype="M8[D]").astype("M8[ns]")
    >>> runs_of(dates, np.array([0, 1, 4]))
    [['2000-01-01T00:00:00', '2000-01-02T00:00:00'], ['2000-01-05T00:00:00', '2000-01-05T00:00:00']]
    """
    if dates is None or times.size == 0:
        return []
    order = np.argsort(dates, kind="stable")
    is_selected = np.isin(order, times)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_selected, [False]]).astype(int)))
    return [[iso(dates[order[first]]), iso(dates[order[last - 1]])] for first, last in edges.reshape(-1, 2)]


def axes_of(grid: Any) -> list[dict[str, Any]] | None:
    """Return kind, range and mean step of both axes, in degrees or metres; None for a grid without axes."""
    y, x = getattr(grid, "y", None), getattr(grid, "x", None)
    return None if y is None or x is None else [_axis(y), _axis(x)]


def _axis(axis: Any) -> dict[str, Any]:
    edges = np.asarray(axis.edges)
    step = float(np.abs(np.diff(edges)).mean())
    return {"kind": axis.kind, "from": float(edges[0]), "to": float(edges[-1]), "step": step}


def require_disjoint(sources: Sequence[Source], splits: Sequence[Split]) -> None:
    """Raise an OptionError if a source trains on times that another one of the same data holds out."""
    for i, (one, split) in enumerate(zip(sources, splits, strict=True)):
        for j, (other, other_split) in enumerate(zip(sources, splits, strict=True)):
            has_both = i != j and split.train.size and other_split.validation.size
            if not has_both or not _may_overlap(axes_of(one.fine), axes_of(other.fine)):
                continue
            # Held-out steps, and those of the gap beside them.
            held_out = np.setdiff1d(np.arange(other.sizes[0]), other_split.train)
            steps = _steps_between(one.dates, other.dates, split.train, held_out)
            if steps.size and _same_data(one, other):
                dates = "" if one.dates is None else f", from {iso(one.dates[steps[0]])} to {iso(one.dates[steps[-1]])}"
                raise OptionError(
                    f"data.pairs.{i}: expected times that train apart from those that validate, received {steps.size} "
                    f"of {one.label}{dates} that pair {j} of the same data holds out; leave out use: train, or give "
                    "both the same dates by data.validation.span, or select other times or cells"
                )


def _steps_between(
    dates: NDArray[Any] | None, other_dates: NDArray[Any] | None, train: NDArray[np.int64], held_out: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the training steps within the time span that another source holds out."""
    if (dates is None) != (other_dates is None):
        return train[:0]
    train_times, held_out_times = train, held_out
    if dates is not None and other_dates is not None:
        train_times, held_out_times = dates[train], other_dates[held_out]
    try:
        return train[(train_times >= held_out_times.min()) & (train_times <= held_out_times.max())]
    except TypeError:
        return train[:0]  # dates of calendars that do not compare


def _same_data(one: Source, other: Source) -> bool:
    paths = [{str(Path(file).resolve()) for file in source.files} for source in (one, other)]
    same_file = paths[0] & paths[1] or set(file_digests(one.files)) & set(file_digests(other.files))
    return bool(same_file) or _same_values(one, other)


def _same_values(one: Source, other: Source) -> bool:
    """Return whether two files hold the same map at a shared time, on shared cells."""
    axes, other_axes = axes_of(one.fine), axes_of(other.fine)
    if one.dates is None or other.dates is None or not axes or not other_axes or not _are_aligned(axes, other_axes):
        return False
    steps = [(axis["step"], other_axis["step"]) for axis, other_axis in zip(axes, other_axes, strict=True)]
    if any(abs(step / other_step - 1) > SAME_EDGE for step, other_step in steps):
        return False
    shared = np.isin(one.dates, other.dates)
    if not shared.any():
        return False
    maps = []
    for source in (one, other):
        step = np.flatnonzero(source.dates == one.dates[shared.argmax()])[:1]
        maps.append(read_truth(source, int(source.maps_of(step)[0]))[0][0])
    places = [
        np.intersect1d(*(np.round(getattr(source.fine, name).centres / axis["step"], 1) for source in (one, other)),
                       return_indices=True)[1:]
        for name, axis in zip("yx", axes, strict=True)
    ]  # fmt: skip
    if not all(index.size for pair in places for index in pair):
        return False
    first, second = (field[np.ix_(places[0][k], places[1][k])] for k, field in enumerate(maps))
    return bool(np.allclose(first, second, rtol=1e-3, atol=1e-6, equal_nan=True))


def _may_overlap(one: Any, other: Any) -> bool:
    """Return whether two grids may share a cell; grids without axes may."""
    if not one or not other:
        return True
    for axis, other_axis in zip(one, other, strict=True):
        if axis["kind"] != other_axis["kind"]:
            return False
        low, high = (sorted((item["from"], item["to"])) for item in (axis, other_axis))
        # Longitudes of the same place may differ by 360 degrees.
        turns = (-360.0, 0.0, 360.0) if axis["kind"] == "longitude" else (0.0,)
        least = SAME_EDGE * min(axis["step"], other_axis["step"])
        if not any(min(low[1], high[1] + turn) - max(low[0], high[0] + turn) > least for turn in turns):
            return False
    return True


def _are_aligned(one: Any, other: Any) -> bool:
    """Return whether the cells of one grid are unions of whole cells of the other."""
    if not one or not other:
        return False
    for axis, other_axis in zip(one, other, strict=True):
        small = min(axis["step"], other_axis["step"])
        for distance in (max(axis["step"], other_axis["step"]), axis["from"] - other_axis["from"]):
            if abs(distance / small - round(distance / small)) > SAME_EDGE:
                return False
    return _may_overlap(one, other)


def find_trained_times(
    record: Record, grid: Any, dates: NDArray[Any] | None, count: int, files: Iterable[str]
) -> NDArray[np.bool_]:
    """Return which time steps of some maps were used to train a model."""
    is_seen, axes, files = np.zeros(count, dtype=bool), axes_of(grid), list(files)
    digests: set[str] | None = None
    texts = None if dates is None else np.array([iso(date) for date in dates])
    for source in record.sources:
        if not source.get("train_maps") or not _may_overlap(axes, source.get("fine_axes")):
            continue
        is_trained = _is_trained(source, texts, count)
        if not is_trained.any():
            continue
        digests = set(file_digests(files)) if digests is None else digests
        same_name = path_of(str(source.get("label"))).name in {Path(file).name for file in files}
        hashes = source.get("file_hashes")
        # A rewritten file keeps its name and its cells.
        is_rewritten = same_name and (hashes is None or _are_aligned(axes, source.get("fine_axes")))
        if digests & set(hashes or ()) or is_rewritten:
            is_seen |= is_trained
    return is_seen


def _is_trained(source: Mapping[str, Any], texts: NDArray[Any] | None, count: int) -> NDArray[np.bool_]:
    """Return which dates are within a run of training dates."""
    runs = source.get("train_dates") or []
    if texts is None:
        return np.full(count, not runs)
    is_trained = np.zeros(count, dtype=bool)
    for first, last in runs:
        is_trained |= (texts >= first) & (texts <= last)
    return is_trained
