"""Detection of times that a training has seen, which must not be used for validation.

Two sources have the same data if they share a file, by path or by content, or if cells, times and values coincide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.models.checkpoint import Record
from downscale.training.maps import read_truth
from downscale.training.origin import axes_of, file_digests
from downscale.training.pairs import Source, path_of
from downscale.training.split import Sides, iso

# Edges of cells that differ by less than this fraction of a cell are equal.
SAME_EDGE = 0.01


def require_apart(sources: Sequence[Source], sides: Sequence[Sides]) -> None:
    """Raise an OptionError if a source trains on times that another one of the same data holds out.

    Raises
    ------
    OptionError
        With one line that names both sources, the times and the remedy.
    """
    for i, (one, own) in enumerate(zip(sources, sides, strict=True)):
        for j, (other, held) in enumerate(zip(sources, sides, strict=True)):
            if i == j or not own.train.size or not held.validation.size or not _same_cells(one.fine, other.fine):
                continue
            at = _between(one.dates, other.dates, own.train, _kept_out(held, other.sizes[0]))
            if at.size and _same_data(one, other):
                when = "" if one.dates is None else f", from {iso(one.dates[at[0]])} to {iso(one.dates[at[-1]])}"
                raise OptionError(
                    f"data.pairs.{i}: expected times that train apart from those that validate, received {at.size} "
                    f"of {one.label}{when} that pair {j} of the same data holds out; leave out use: train, or give "
                    "both the same dates by data.validation.span, or select other times or cells"
                )


def _kept_out(sides: Sides, count: int) -> NDArray[np.int64]:
    """Return the steps that are held out, and those of the gap beside them."""
    return np.setdiff1d(np.arange(count), sides.train)


def _between(
    dates: NDArray[Any] | None, others: NDArray[Any] | None, train: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the training steps within the time span that another source holds out."""
    if (dates is None) != (others is None):
        return train[:0]
    mine, theirs = (train, kept) if dates is None or others is None else (dates[train], others[kept])
    try:
        return train[(mine >= theirs.min()) & (mine <= theirs.max())]
    except TypeError:
        return train[:0]  # dates of calendars that do not compare


def _same_data(one: Source, other: Source) -> bool:
    paths = [{str(Path(file).resolve()) for file in source.files} for source in (one, other)]
    if paths[0] & paths[1] or set(file_digests(one.files)) & set(file_digests(other.files)):
        return True
    return _same_values(one, other)


def _same_values(one: Source, other: Source) -> bool:
    """Return whether two files hold the same map at a shared time, on shared cells."""
    axes, beside = axes_of(one.fine), axes_of(other.fine)
    if one.dates is None or other.dates is None or not axes or not beside or not _aligned(axes, beside):
        return False
    if any(abs(mine["step"] / theirs["step"] - 1) > SAME_EDGE for mine, theirs in zip(axes, beside, strict=True)):
        return False
    shared = np.isin(one.dates, other.dates)
    if not shared.any():
        return False
    maps = []
    for source in (one, other):
        at = np.flatnonzero(source.dates == one.dates[shared.argmax()])[:1]
        maps.append(read_truth(source, int(source.maps_of(at)[0]))[0][0])
    places = [
        np.intersect1d(*(np.round(getattr(source.fine, name).centres / axis["step"], 1) for source in (one, other)),
                       return_indices=True)[1:]
        for name, axis in zip("yx", axes, strict=True)
    ]  # fmt: skip
    if not all(index.size for pair in places for index in pair):
        return False
    first, second = (field[np.ix_(places[0][k], places[1][k])] for k, field in enumerate(maps))
    return bool(np.allclose(first, second, rtol=1e-3, atol=1e-6, equal_nan=True))


def _same_cells(one: Any, other: Any) -> bool:
    """Return whether two grids may share a cell; grids without axes may."""
    return _overlap(axes_of(one), axes_of(other))


def _overlap(one: Any, other: Any) -> bool:
    if not one or not other:
        return True
    for mine, theirs in zip(one, other, strict=True):
        if mine["kind"] != theirs["kind"]:
            return False
        low, high = (sorted((axis["from"], axis["to"])) for axis in (mine, theirs))
        # Longitudes of the same place may differ by 360 degrees.
        turns = (-360.0, 0.0, 360.0) if mine["kind"] == "longitude" else (0.0,)
        least = SAME_EDGE * min(mine["step"], theirs["step"])
        if not any(min(low[1], high[1] + turn) - max(low[0], high[0] + turn) > least for turn in turns):
            return False
    return True


def _aligned(one: Any, other: Any) -> bool:
    """Return whether the cells of one grid are unions of whole cells of the other."""
    if not one or not other:
        return False
    for mine, theirs in zip(one, other, strict=True):
        small = min(mine["step"], theirs["step"])
        for distance in (max(mine["step"], theirs["step"]), mine["from"] - theirs["from"]):
            if abs(distance / small - round(distance / small)) > SAME_EDGE:
                return False
    return _overlap(one, other)


def seen_times(
    record: Record, grid: Any, dates: NDArray[Any] | None, count: int, files: Iterable[str]
) -> NDArray[np.bool_]:
    """Return which time steps of some maps the training of a model saw.

    Parameters
    ----------
    record : Record
        Record of the checkpoint.
    grid : RectilinearGrid or CurvilinearGrid
        The fine cells.
    dates : array or None
        Dates of the time steps.
    count : int
        Number of time steps.
    files : iterable of str
        Files that hold the maps.
    """
    seen, axes, files = np.zeros(count, dtype=bool), axes_of(grid), list(files)
    own: set[str] | None = None
    words = None if dates is None else np.array([iso(date) for date in dates])
    for source in record.sources:
        if not source.get("train_maps") or not _overlap(axes, source.get("fine_axes")):
            continue
        inside = _trained(source, words, count)
        if not inside.any():
            continue
        own = set(file_digests(files)) if own is None else own
        named = path_of(str(source.get("label"))).name in {Path(file).name for file in files}
        hashes = source.get("file_hashes")
        # A rewritten file keeps its name and its cells.
        if own & set(hashes or ()) or (named and (hashes is None or _aligned(axes, source.get("fine_axes")))):
            seen |= inside
    return seen


def _trained(source: Mapping[str, Any], words: NDArray[Any] | None, count: int) -> NDArray[np.bool_]:
    """Return which dates are within a run of training dates."""
    runs = source.get("train_dates") or []
    if words is None:
        return np.full(count, not runs)
    made = np.zeros(count, dtype=bool)
    for first, last in runs:
        made |= (words >= first) & (words <= last)
    return made
