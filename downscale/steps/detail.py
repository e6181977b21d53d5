"""Detail of fine observations on the fine cells: weighted patterns by label, and what they consist of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from downscale.cf.labels import STEPS, Labels
from downscale.engine.apply import compute_maps
from downscale.engine.job import Job
from downscale.errors import InputError, spell
from downscale.fields.climatology import Evidence, Part, quantiles_of, terms_of
from downscale.steps.climatology import Observations
from downscale.steps.jobs import kernel_alone

# Values of a record that are read at once.
PIECE = 8_000_000
# Steps of five days that the detail of a day of the year is averaged over, around it.
WINDOW = 7
# Float64 fields by label while the detail is computed, and copies of the maps that are read at once.
SUMS, SUMS_IN_PROPORTION, READ_COPIES = 8, 10, 4

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def detail_table(observed: Observations, job: Job, mask: Any) -> Any:
    """Return the weighted detail of each label of the coarse maps, zeros last, lazily: (labels + 1, terms, ...)."""
    shape = (observed.wanted.size + 1, _terms(observed), *job.fine.shape)
    table = dask.delayed(_table, pure=False)(_Source(observed, _shared.get()), job, mask)
    return da.from_delayed(table, shape, np.float32)


# Labels and detail of each variable, for the blocks of a run in one process; None outside of a run.
Tables = dict[str, tuple[Whole, NDArray[np.float32]]]
_shared: ContextVar[Tables | None] = ContextVar("shared", default=None)


@contextmanager
def share_tables(tables: Tables) -> Iterator[None]:
    """Keep the detail of a request in ``tables`` within this block, so that the blocks of a run compute it once."""
    token = _shared.set(tables)
    try:
        yield
    finally:
        _shared.reset(token)


class _Source:
    """Observations that Dask does not compute before a task begins, which reads them piece by piece.

    Dask would find lazy maps in the fields of a dataclass, and compute all of them at once. The detail is computed once
    for all blocks that this process computes, also those of several graphs; ``lock`` makes the others wait.
    """

    def __init__(self, observed: Observations, tables: Tables | None = None) -> None:
        self.observed, self.lock = observed, threading.Lock()
        self.tables: Tables = {} if tables is None else tables

    def __reduce__(self) -> tuple[Any, ...]:
        # Tables are not sent to workers.
        return _Source, (self.observed,)


def _terms(observed: Observations) -> int:
    """Return the number of terms of the detail of a label; see :class:`downscale.kernels.windows.Detail`."""
    return 1 if observed.quantiles == 1 else 2 * observed.quantiles


def detail_bytes(observed: Observations, job: Job) -> int:
    """Return the memory that the detail takes on the fine cells, with the sums that it is computed from."""
    sums = observed.quantiles * (SUMS_IN_PROPORTION if observed.ratio else SUMS)
    total = observed.wanted.size * int(np.prod(job.fine.shape)) * (4 * _terms(observed) + 8 * sums)
    if observed.quantiles > 1:
        needed = np.isin(observed.label, np.concatenate([[], *_spread(observed.labels, observed.wanted)]))
        total += 4 * int(needed.sum()) * int(np.prod(job.coarse.shape))
    return total + READ_COPIES * 8 * PIECE


@dataclass(frozen=True)
class Summary:
    """What the observations of one label contribute: maps, independent parts, weight, rms of the detail, clipped."""

    label: str
    samples: int
    parts: int
    weight: float
    detail: float
    clipped: int


def _table(source: _Source, job: Job, mask: Any) -> NDArray[np.float32]:
    # Of each variable the labels of one block, which bounds the memory.
    wanted = source.observed.wanted
    with source.lock:
        known = source.tables.get(job.name)
        if known is None or not np.array_equal(known[0], wanted):
            known = source.tables[job.name] = wanted, estimate(source.observed, job, mask)[0]
    return known[1]


def estimate(observed: Observations, job: Job, mask: Any = None) -> tuple[NDArray[np.float32], list[Summary]]:
    """Return the weighted detail of each wanted label, zeros last, and a summary by label."""
    plain, wanted = _plain(job), observed.wanted
    if not wanted.size:
        # Such as a block of months that the record lacks.
        return np.zeros((1, _terms(observed), *job.fine.shape), np.float32), []
    observed = observed.in_memory(PIECE)
    valid = None if mask is None else np.asarray(mask) > 0.5
    count = observed.quantiles
    nodes, edges = _divisions(observed, plain, valid) if count > 1 else (np.empty(0), None)
    weight = 1.0 if observed.weight is None and observed.parts is None else observed.weight
    evidence = Evidence(wanted.size * count, job.cells, observed.ratio, needs_weights=weight is None)
    for parts in _parts_of_record(observed, plain, valid, edges):
        for label, (samples, part) in parts.items():
            evidence.add(label, samples, part)
    if not evidence.seen:
        raise InputError(
            f"{job.name}: expected fine observations, received missing values only; pass others, or leave "
            f"{spell('climatology')} out"
        )
    pattern, clipped = evidence.pattern()
    if weight is None:
        weights = evidence.weights(pattern, job.coarse.cell_area, closed=bool(job.coarse.x.periodic))
        shares = np.clip(compute_maps(weights, plain), 0.0, 1.0)
    else:
        weights = shares = np.full((len(pattern), 1, 1), weight)
    table = np.zeros((wanted.size + 1, _terms(observed), *job.fine.shape), np.float32)
    table[:-1] = terms_of((shares * pattern).reshape(wanted.size, count, *job.fine.shape), nodes)
    area = job.coarse.cell_area
    facts = []
    for i, label in enumerate(wanted):
        own = slice(i * count, (i + 1) * count)
        facts.append(Summary(
            observed.labels.words(int(label)), int(evidence.samples[own][0]), int(evidence.parts[own][0]),
            float((weights[own].mean(axis=0) * area).sum() / area.sum()), float(np.sqrt(np.mean(pattern[own] ** 2))),
            int(clipped[own].sum()),
        ))  # fmt: skip
    return table, facts


def _divisions(observed: Observations, plain: Job, valid: Any) -> tuple[Floats, Floats]:
    """Return, for each wanted label, the nodes of the quantiles of its smooth values, and the edges between them."""
    means, label = [], []
    spread = _spread(observed.labels, observed.wanted)
    for pieces in _pieces_of_parts(observed, plain, spread):
        for first, last in pieces:
            fine = on_fine(observed, observed.read(first, last), valid)
            means.append(plain.cells.mean_of_finite(fine).astype(np.float32))
            label.append(observed.label[first:last])
    series, labels = np.concatenate(means), np.concatenate(label)
    count = observed.quantiles
    levels = np.arange(1, 2 * count) / (2 * count)
    coarse = [quantiles_of(series[np.isin(labels, near)], levels, observed.ratio) for near in spread]
    fine = compute_maps(np.concatenate(coarse).astype(np.float64), plain)
    fine = np.maximum.accumulate(np.nan_to_num(fine).reshape(len(spread), len(levels), *fine.shape[1:]), axis=1)
    return fine[:, ::2], fine[:, 1::2]


def _parts_of_record(
    observed: Observations, plain: Job, valid: Any, edges: Floats | None
) -> Iterator[dict[int, tuple[int, Part]]]:
    """Yield the number of samples and their sums by the position of a wanted label, for each independent part."""
    spread = _spread(observed.labels, observed.wanted)
    needs_samples = edges is not None or (observed.ratio and observed.parts is not None)
    for pieces in _pieces_of_parts(observed, plain, spread):
        if needs_samples:
            yield _sums_of_samples(observed, plain, valid, pieces, spread, edges)
        else:
            yield _sums_of_means(observed, plain, valid, pieces, spread)


def _pieces_of_parts(observed: Observations, plain: Job, spread: list[Whole]) -> Iterator[list[tuple[int, int]]]:
    """Yield the first and last maps to read at once, for each independent part that has samples."""
    label = observed.label
    parts = np.zeros(label.size, np.int64) if observed.parts is None else observed.parts
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), parts.size]
    needed = np.isin(label, np.concatenate(spread))
    step = max(PIECE // max(int(np.prod(observed.maps.shape[-2:])), int(np.prod(plain.fine.shape))), 1)
    for begin, end in pairwise(edges):
        pieces = [(a, min(a + step, end)) for a in range(begin, end, step)]
        pieces = [(a, b) for a, b in pieces if needed[a:b].any()]
        if pieces:
            yield pieces


def _sums_of_means(
    observed: Observations, plain: Job, valid: Any, pieces: list[tuple[int, int]], spread: list[Whole]
) -> dict[int, tuple[int, Part]]:
    """Return the sums of one part, from the mean of each label: the kernel is linear."""
    total, count = np.zeros((2, len(spread), *observed.maps.shape[-2:]))
    samples = np.zeros(len(spread), np.int64)
    for first, last in pieces:
        values = observed.read(first, last)
        for i, near in enumerate(spread):
            some = values[np.isin(observed.label[first:last], near)]
            present = np.isfinite(some)
            total[i] += np.where(present, some, 0.0).sum(axis=0)
            count[i] += present.sum(axis=0)
            samples[i] += len(some)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    fine = on_fine(observed, means, valid)
    smooth = _smooth(fine, plain)
    return {
        int(i): (int(samples[i]), Part.of_mean(fine[i], smooth[i], int(samples[i]), observed.ratio))
        for i in np.flatnonzero(samples)
    }


def _sums_of_samples(
    observed: Observations, plain: Job, valid: Any, pieces: list[tuple[int, int]], spread: list[Whole],
    edges: Floats | None,
) -> dict[int, tuple[int, Part]]:  # fmt: skip
    """Return the sums of one part, with products of each sample and its smooth field, by label and quantile."""
    found: dict[int, tuple[int, Part]] = {}
    for first, last in pieces:
        label = observed.label[first:last]
        fine = on_fine(observed, observed.read(first, last), valid)
        smooth = _smooth(fine, plain)
        for i, near in enumerate(spread):
            chosen = np.isin(label, near)
            if not chosen.any():
                continue
            own, base = fine[chosen], smooth[chosen]
            rank = np.zeros(base.shape, np.int8) if edges is None else sum(base >= edge for edge in edges[i])
            for q in range(observed.quantiles):
                place, count = i * observed.quantiles + q, len(own)
                part = Part.of_samples(own, base, observed.ratio, rank == q)
                known = found.get(place)
                found[place] = (count, part) if known is None else (known[0] + count, known[1].plus(part))
    return found


def on_fine(observed: Observations, maps: Floats, valid: Any) -> Floats:
    """Return maps on the fine cells, NaN where there are no observations or the mask hides cells."""
    fine = observed.regrid(maps)
    return fine if valid is None else np.where(valid, fine, np.nan)


def _spread(labels: Labels, wanted: Whole) -> list[Whole]:
    """Return the labels whose samples each wanted label averages: its own, and neighbouring days of the year."""
    if labels.parts[:1] != ("dayofyear",):
        return [np.array([label]) for label in wanted]
    per_step = labels.count // STEPS
    half = WINDOW // 2
    steps = per_step * np.arange(-half, half + 1)
    return [(label + steps) % labels.count for label in wanted]


def _plain(job: Job) -> Job:
    """Return the job of the kernel alone, with the same rounding for every engine and device."""
    return replace(kernel_alone(job), engine="auto", device="cpu")


def _smooth(fine: Floats, plain: Job) -> Floats:
    """Return U A of fine maps with gaps."""
    return compute_maps(plain.cells.mean_of_finite(fine), plain)
