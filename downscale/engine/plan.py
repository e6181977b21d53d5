"""The plan of a request: grids, chunks, halos, tasks and memory."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from downscale.engine.apply import cuts_of
from downscale.engine.job import Job, feature_bytes_of
from downscale.engine.memory import BATCH_VALUES, BLOCKS_PER_WORKER, READING_BYTES, ExtraMemory, resident_bytes
from downscale.errors import pluralise

# Float64 copies of the fine values in work at once: without a compiled pass; and with one, if pieces of cells are
# averaged to target cells (measured).
WORKING_COPIES, GATHERED_COPIES = 6, 7
NO_EXTRA = ExtraMemory()


@dataclass(frozen=True)
class VariablePlan:
    """The plan of one variable.

    Attributes
    ----------
    dims, coarse_shape, fine_shape : tuples
        Dimensions and sizes, horizontal dimensions last.
    chunks : tuple of int
        Largest fine chunk along each dimension.
    blocks : int
        Blocks to compute.
    halo : (int, int)
        Coarse cells that a block reads beyond its own, rows and columns.
    block_bytes : int
        Memory of one block in work, including reading, encoding and writing of it and of the next.
    static_bytes : int
        Memory held besides all blocks: orography, masks, terrain term, areas, and reading.
    feature_bytes : int
        Part of ``block_bytes`` that the features of a network take.
    compiled : bool
        Whether compiled loops do the computation and must be loaded.
    """

    name: str
    dims: tuple[str, ...]
    coarse_shape: tuple[int, ...]
    fine_shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    blocks: int
    halo: tuple[int, int]
    law: str
    bounds: tuple[float | None, float | None]
    block_bytes: int
    static_bytes: int = 0
    feature_bytes: int = 0
    compiled: bool = True

    @property
    def fine_bytes(self) -> int:
        """Size of the result."""
        return int(np.prod(self.fine_shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Plan:
    """The plan of all variables.

    Attributes
    ----------
    method : str
        The method.
    factor : mapping of dimension to int
        Refinement factors.
    variables : mapping of name to VariablePlan
        Variables to downscale.
    passed_through : tuple of str
        Variables that are not changed.
    workers : int
        Number of blocks in work at once.
    notes : tuple of str
        Remarks for the user.
    target : (int, int) or None
        Rows and columns of the requested target grid; ``factor`` then counts the pieces that it cuts.
    """

    method: str
    factor: dict[str, int]
    device: str
    variables: dict[str, VariablePlan]
    passed_through: tuple[str, ...]
    workers: int
    notes: tuple[str, ...] = ()
    target: tuple[int, int] | None = None

    @property
    def tasks(self) -> int:
        """Blocks over all variables."""
        return sum(plan.blocks for plan in self.variables.values())

    @property
    def output_bytes(self) -> int:
        """Size of all results."""
        return sum(plan.fine_bytes for plan in self.variables.values())

    @property
    def peak_bytes(self) -> int:
        """Largest memory of the process, including its present memory and libraries still to load."""
        plans = self.variables.values()
        blocks = self.workers * max((plan.block_bytes for plan in plans), default=0)
        loops = any(plan.compiled for plan in plans)
        return resident_bytes(loops) + blocks + max((plan.static_bytes for plan in plans), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings for JSON."""
        names = ("method", "factor", "target", "device", "tasks", "workers", "output_bytes", "peak_bytes")
        return {name: getattr(self, name) for name in names} | {
            "passed_through": list(self.passed_through),
            "notes": list(self.notes),
            "variables": {name: vars(plan) for name, plan in self.variables.items()},
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the plan as pairs of a label and a text."""
        factor = ", ".join(f"{dim} x{value}" for dim, value in self.factor.items())
        grid_line = ("factor", factor) if self.target is None else ("target grid", _sizes(self.target))
        lines = [("method", self.method), grid_line, ("device", self.device)]
        for name, plan in self.variables.items():
            shapes = f"{_sizes(plan.coarse_shape)} -> {_sizes(plan.fine_shape)} {plan.dtype}"
            number = pluralise(plan.blocks, "block")
            blocks = f"{number} of {_sizes(plan.chunks)}, halo {plan.halo[0]} x {plan.halo[1]} coarse cells"
            low, high = ("" if bound is None else f"{bound:g}" for bound in plan.bounds)
            bounds = f", bounds [{low or '-inf'}, {high or 'inf'}]" if low or high else ""
            lines.append((name, f"({', '.join(plan.dims)}) {shapes}; {blocks}; law: {plan.law}{bounds}"))
        if self.passed_through:
            lines.append(("kept as is", ", ".join(self.passed_through)))
        lines.append(("output", readable_bytes(self.output_bytes)))
        peak = f"about {readable_bytes(self.peak_bytes)} with {pluralise(self.workers, 'worker')}, libraries included"
        lines.append(("peak memory", peak))
        return lines + [("note", note) for note in self.notes]

    def __repr__(self) -> str:
        width = max(len(label) for label, _ in self.lines())
        return "\n".join(["Plan", *(f"  {label.ljust(width)}  {text}" for label, text in self.lines())])

    def _repr_html_(self) -> str:
        style = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {style}>{html.escape(label)}</th><td {style}>{html.escape(text)}</td></tr>"
            for label, text in self.lines()
        )
        return f"<div><b>Plan</b><table>{rows}</table></div>"


def plan_variable(
    job: Job, dims: tuple[str, ...], shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...],
    extra: ExtraMemory = NO_EXTRA,
) -> VariablePlan:  # fmt: skip
    """Return the plan of one variable from its shape and chunks (horizontal dimensions last).

    ``extra`` is the memory of the run besides the blocks.
    """
    rows, columns = cuts_of(job, chunks[-2], chunks[-1])
    factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
    largest = tuple(max(sizes) for sizes in chunks)
    cuts_cells = job.target is not None
    height, width = largest[-2] * factor_y, largest[-1] * factor_x
    if cuts_cells:
        height, width = job.block_shape(rows[0], columns[0])
    fine_chunk = (*largest[:-2], height, width)
    blocks = int(np.prod([len(sizes) for sizes in (chunks[:-2] if cuts_cells else chunks)]))
    halo = max(c.core.first - c.input.first for c in rows), max(c.core.first - c.input.first for c in columns)
    input_shape = max(c.input.length for c in rows), max(c.input.length for c in columns)
    input_cells = input_shape[0] * input_shape[1]
    maps = int(np.prod(largest[:-2])) if len(largest) > 2 else 1
    fine_cells = input_cells * factor_y * factor_x
    batch = min(maps, max(BATCH_VALUES // fine_cells, 1))
    copies = WORKING_COPIES if not job.is_compiled else GATHERED_COPIES if cuts_cells else 0
    working_bytes = batch * fine_cells * 8 * copies
    input_bytes = 2 * maps * input_cells * job.dtype.itemsize
    features = feature_bytes_of(job, batch, input_shape)
    result = int(np.prod(fine_chunk)) * job.dtype.itemsize
    return VariablePlan(
        name=job.name,
        dims=dims,
        coarse_shape=shape,
        fine_shape=(*shape[:-2], *((height, width) if cuts_cells else job.fine.shape)),
        dtype=str(job.dtype),
        chunks=fine_chunk,
        blocks=blocks,
        halo=halo,
        law="none imposed" if job.conserve is None else job.conserve if job.target is None else "cell, on pieces",
        bounds=job.bounds,
        block_bytes=int(BLOCKS_PER_WORKER * result) + input_bytes + working_bytes + features
        + fine_cells * extra.bytes_per_cell,
        static_bytes=extra.run_bytes,
        feature_bytes=features,
        compiled=job.is_compiled,
    )


def plan_along_axis(
    job: Job, dims: tuple[Any, ...], shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...]
) -> VariablePlan:
    """Return the plan of one variable along one axis from its present shape and its future chunks."""
    largest = tuple(max(sizes) for sizes in chunks)
    result = int(np.prod(largest)) * job.dtype.itemsize
    return VariablePlan(
        name=job.name,
        dims=tuple(map(str, dims)),
        coarse_shape=shape,
        fine_shape=tuple(sum(sizes) for sizes in chunks),
        dtype=str(job.dtype),
        chunks=largest,
        blocks=int(np.prod([len(sizes) for sizes in chunks])),
        halo=(0, 0),
        law=job.conserve or "none imposed",
        bounds=job.bounds,
        block_bytes=int(BLOCKS_PER_WORKER * result) + min(BATCH_VALUES, int(np.prod(largest))) * 8 * WORKING_COPIES,
        static_bytes=READING_BYTES,
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def readable_bytes(count: int) -> str:
    """Return a size as readable text.

    Examples
    --------
    >>> readable_bytes(3_500_000)
    '3.5 MB'
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
