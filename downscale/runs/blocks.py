"""Blocks of a run along time, the names of their files, and outputs that exist already.

A block is a range of steps. Blocks of calendar periods start at calendar boundaries, counted from the first year, month
or day of the record. File names end with the first and the last date at the precision of the steps, as in CMIP.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import DAY, Clock, parts_of, values_of
from downscale.cf.horizontal import horizontal
from downscale.cf.times import cmip_frequency, date_bounds, step_lengths, time_name
from downscale.engine.plan import Plan, readable_bytes
from downscale.errors import InputError, OptionError, OutputError, pluralise
from downscale.io.encoding import SHORT
from downscale.io.paths import address_of, check_netcdf, check_target, sources_of
from downscale.io.store import check_store
from downscale.methods.registry import SUFFIX
from downscale.request import Request
from downscale.runs.manifest import clear, fingerprint, is_own, manifest_path, remove_manifest
from downscale.runs.recipe import Recipe
from downscale.runs.single import SAMPLE, STORE, has_means, static_sources
from downscale.steps.prepare import split_request

UNITS = ("year", "month", "day")
# Digits of a date: the year, and two for each further part.
DIGITS = {"yr": 4, "mon": 6, "day": 8}
ALL_DIGITS = 12
WORDS = re.compile(r"\s*(\d+)\s*(?:(year|month|day)s?)?\s*")
# Default block size in bytes of fine output.
BLOCK_BYTES, LEAST_BYTES = 1_000_000_000, 128_000_000
FEWEST_BLOCKS = 8
# Arguments of a recipe that name files, by its sections.
PATHS = {"input": ("path",), "output": ("path",), "statics": ("orog",),
         "downscale": ("mask", "sftlf", "target_grid", "climatology", "method")}  # fmt: skip
SUFFIXES = (".nc", ".nc4", ".nc3", ".netcdf", ".cdf", ".h5", ".hdf5", STORE)


@dataclass(frozen=True)
class Block:
    """Steps ``start`` to ``stop`` (excluded) of a record; ``label`` has the dates of the file name, if any."""

    start: int
    stop: int
    label: str = ""

    def path(self, target: Path) -> Path:
        """Return the path of its file, for a whole output at ``target``.

        Examples
        --------
        >>> Block(0, 31, "20000101-20000131").path(Path("tas_day.nc")).name
        'tas_day_20000101-20000131.nc'
        """
        stem, suffix = split_name(target)
        return target.with_name(f"{stem}_{self.label}{suffix}") if self.label else target


def split_name(target: Path) -> tuple[str, str]:
    """Return the parts of block names before and after their dates; a name without a suffix gets one.

    Examples
    --------
    >>> split_name(Path("tas_v1.2")), split_name(Path("tas.nc4"))
    (('tas_v1.2', '.nc'), ('tas', '.nc4'))
    """
    if target.suffix.lower() in SUFFIXES:
        return target.stem, target.suffix
    return target.name, SUFFIXES[0]


@dataclass(frozen=True, eq=False)
class Record:
    """The steps of a record along its time dimension ``dim``, which is None for a field without time.

    ``dates`` are the middles of the periods of the steps, else their time stamps; ``digits`` is the number of digits of
    a date in a file name.
    """

    dim: str | None
    size: int
    dates: NDArray[Any] | None
    digits: int = ALL_DIGITS


def record_of(ds: xr.Dataset) -> Record:
    """Return the record of a Dataset; reads only coordinates."""
    name = time_name(ds)
    if name is not None and ds[name].ndim == 1:
        dates, pairs = values_of(ds[name].variable), date_bounds(ds, name)
        if pairs is not None and pairs.dtype.kind in "MO":
            # A mean stamped at the end of its period belongs to the year before.
            dates = np.asarray(pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) // 2)
        lengths = step_lengths(ds, name)
        is_daily = not lengths.size or lengths.min() >= 1
        digits = DIGITS.get(str(cmip_frequency(ds)), DIGITS["day"] if is_daily else ALL_DIGITS)
        return Record(str(ds[name].dims[0]), ds[name].size, dates, digits)
    fields = [field for field in ds.data_vars.values() if set(horizontal(ds, guess=True).dims) <= set(field.dims)]
    if any("time" in field.dims for field in fields):
        return Record("time", ds.sizes["time"], None)
    return Record(None, 1, None)


def parse_blocks(length: int | str) -> int | tuple[int, str]:
    """Return a number of steps, or a number and a unit of the calendar.

    Examples
    --------
    >>> parse_blocks("5 years"), parse_blocks("12"), parse_blocks(12)
    ((5, 'year'), 12, 12)
    """
    match = WORDS.fullmatch(str(length))
    if match and int(match[1]):
        return (int(match[1]), match[2]) if match[2] else int(match[1])
    raise OptionError(f'expected blocks as a number of steps or as "5 years", "1 month", received {length!r}')


def cut_record(record: Record, length: int | str) -> list[Block]:
    """Return the blocks of a record: each step in exactly one block, in order."""
    step = parse_blocks(length)
    if record.dim is None:
        return [Block(0, 1)]
    if not record.size:
        raise InputError(f"expected at least one step along {record.dim}, received none")
    _require_order(record)
    if isinstance(step, int):
        edges = [*range(0, record.size, step), record.size]
    elif record.dates is None:
        raise OptionError(
            f"expected dates along {record.dim!r} for blocks of {step[0]} {step[1]}s, received none; give a number "
            "of steps"
        )
    else:
        period = _periods(record.dates, step[1]) // step[0]
        edges = [0, *(np.flatnonzero(np.diff(period)) + 1).tolist(), record.size]
    blocks = [Block(a, b, _label(record, a, b)) for a, b in itertools.pairwise(edges)]
    if len({block.label for block in blocks}) < len(blocks):
        raise OptionError(f"expected blocks with dates that differ, received blocks={length!r}; make them longer")
    return blocks


def _require_order(record: Record) -> None:
    if record.dates is None or record.size < 2:
        return
    differences = np.diff(Clock.of(record.dates).seconds(record.dates))
    if (differences < 0).any():
        i = int(np.flatnonzero(differences < 0)[0])
        raise InputError(
            f"expected ascending times to cut into blocks, received {record.dates[i + 1]} after {record.dates[i]}; "
            f"sort by {record.dim}"
        )


def _periods(dates: NDArray[Any], unit: str) -> NDArray[np.int64]:
    """Return the number of years, months or days between the first date and each date."""
    if unit == "day":
        clock = Clock.of(dates)
        first = clock.seconds(clock.midnights([parts_of(dates[0])]))[0]
        return np.floor((clock.seconds(dates) - first) / DAY).astype(np.int64)
    if dates.dtype.kind == "M":
        numbers = dates.astype("M8[Y]" if unit == "year" else "M8[M]").astype(np.int64)
    else:
        numbers = np.array([d.year if unit == "year" else 12 * d.year + d.month for d in dates], dtype=np.int64)
    return numbers - numbers[0]


def _label(record: Record, start: int, stop: int) -> str:
    if record.dates is None:
        return f"{start:06d}-{stop - 1:06d}"
    return "-".join(_digits_of(record.dates[i])[: record.digits] for i in (start, stop - 1))


def _digits_of(date: Any) -> str:
    """Return a date as its digits, to the minute.

    Examples
    --------
    >>> _digits_of(np.datetime64("2000-02-29T12:30"))
    '200002291230'
    """
    year, month, day = parts_of(date)
    if isinstance(date, cftime.datetime):
        hour, minute = date.hour, date.minute
    else:
        hour, minute = divmod(int((np.datetime64(date, "m") - np.datetime64(date, "D")) / np.timedelta64(1, "m")), 60)
    return f"{year:04d}{month:02d}{day:02d}{hour:02d}{minute:02d}"


def default_blocks(output_bytes: int, size: int, largest: int = BLOCK_BYTES) -> int:
    """Return the steps per block for a record with this many bytes of fine fields.

    It depends only on the request, so that every job of an array and every later run uses the same blocks.

    Examples
    --------
    >>> default_blocks(100_000_000_000, 1000), default_blocks(1000, 12)
    (10, 12)
    """
    block_bytes = min(max(output_bytes / FEWEST_BLOCKS, LEAST_BYTES), largest)
    steps = min(max(math.floor(size * block_bytes / max(output_bytes, 1)), 1), size)
    # A number with many divisors, for the storage chunks.
    unit = 2 ** max(steps.bit_length() - 4, 0)
    return size if steps == size else steps // unit * unit


def stride(blocks: list[Block]) -> int:
    """Return the largest number of steps that divides all blocks but the last."""
    return math.gcd(*(block.start for block in blocks[1:])) if len(blocks) > 1 else blocks[0].stop


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a run with the file of each, the merged file, and the fingerprint of request, version and inputs.

    ``check`` is whether there are means to check; ``append`` is whether an existing store at ``target`` is extended.
    """

    record: Record
    blocks: list[Block]
    paths: list[Path]
    target: Path
    merge: bool
    fingerprint: str
    check: bool
    append: bool = False

    @property
    def is_store(self) -> bool:
        """Whether the outputs are Zarr stores."""
        return self.target.suffix == STORE

    @property
    def existing_store(self) -> Path | None:
        """The store that is extended, if it exists."""
        return self.target if self.append and self.target.exists() else None

    @property
    def outputs(self) -> list[Path]:
        """The final output files."""
        return [self.target] if self.merge else self.paths

    @property
    def span(self) -> tuple[int, int]:
        """The steps of all blocks."""
        return self.blocks[0].start, self.blocks[-1].stop

    @property
    def folder(self) -> Path:
        """Folder of the blocks until they are merged."""
        return blocks_folder(self.target)

    @property
    def finished_count(self) -> int:
        """Number of blocks with a file and a manifest."""
        return sum(path.exists() and manifest_path(path).exists() for path in self.paths)

    def __str__(self) -> str:
        count = len(self.blocks)
        if count == 1:
            return "1 block (--block 0)"
        longest = max(block.stop - block.start for block in self.blocks)
        kind = "store" if self.is_store else "file"
        ending = "then appended" if self.append else "then merged" if self.merge else f"one {kind} each"
        steps = pluralise(longest, "step")
        return f"{count} blocks of up to {steps} along {self.record.dim} (--block 0 to {count - 1}), {ending}"


def blocks_folder(target: Path) -> Path:
    """Return the hidden folder for the blocks of a file."""
    return target.with_name(f".{target.name}.blocks")


def plan_blocks(recipe: Recipe, coarse: xr.Dataset, request: Request, plan: Plan) -> BlockPlan:
    """Divide a run into blocks."""
    output = recipe.output
    _require_store(recipe)
    record = record_of(coarse)
    if record.dim in {step.dim for step in split_request(coarse, request)[0]}:
        if output.blocks is not None:
            raise OptionError(
                f"expected no blocks along {record.dim!r}, whose steps a factor or target along it couples, received "
                f"blocks={output.blocks!r}; leave blocks out, or refine {record.dim!r} in a run of its own"
            )
        record = Record(None, 1, None)
    blocks = cut_record(
        record, default_blocks(plan.output_bytes, record.size) if output.blocks is None else output.blocks
    )
    target = Path(output.path).expanduser()
    paths = [block.path(target) for block in blocks]
    if output.append and record.dim is None:
        raise OptionError("expected a record with time to append, received none; leave out append")
    if output.merge and len(blocks) == 1 and not output.append:
        paths = [target]
    elif output.merge:
        paths = [blocks_folder(target) / path.name for path in paths]
        packing = output.packing
        if SHORT in (packing.values() if isinstance(packing, dict) else [packing]):
            raise OptionError(
                f"expected packing in bits for blocks that are merged, received {SHORT!r}, whose range is that of one "
                "block; give a number of bits, or leave the blocks apart (merge: false, --no-merge)"
            )
    files = (*sources_of(coarse), *static_sources(recipe))
    request_fingerprint = fingerprint(make_paths_absolute(recipe), files)
    is_checked = has_means(recipe, plan)
    return BlockPlan(record, blocks, paths, target, output.merge, request_fingerprint, is_checked, output.append)


def _require_store(recipe: Recipe) -> None:
    """Raise an OptionError if a result cannot be appended to its output."""
    output = recipe.output
    if output.append and not output.path.endswith(STORE):
        raise OptionError(f"expected a Zarr store to append to, received {output.path}; give a name with .zarr")
    if output.append and not output.merge:
        raise OptionError("expected append or blocks that stay apart (merge: false), received both; leave one out")


def make_paths_absolute(recipe: Recipe) -> Recipe:
    """Return a recipe with absolute paths."""

    def make_absolute(key: str, name: Any) -> Any:
        if isinstance(name, list):
            return [make_absolute(key, item) for item in name]
        if not isinstance(name, str) or name.startswith(SAMPLE) or address_of(name) is not None:
            return name
        path = os.path.expanduser(name)
        is_word = not name.endswith(SUFFIX) if key == "method" else key == "target_grid" and not os.path.exists(path)
        return name if is_word else os.path.abspath(path)

    sections = {name: getattr(recipe, name) for name in PATHS if getattr(recipe, name) is not None}
    changes = {name: section.model_copy(update={key: make_absolute(key, getattr(section, key)) for key in PATHS[name]})
               for name, section in sections.items()}  # fmt: skip
    return recipe.model_copy(update=changes)


def check_outputs(
    blocks: BlockPlan, indices: list[int], inputs: tuple[str, ...], *, resume: bool, overwrite: bool
) -> None:
    """Check all outputs before any work is done, and remove blocks of an earlier run that are to be computed again.

    An existing result is kept until the new one replaces it.
    """
    if blocks.append and overwrite:
        raise OptionError("expected append or overwrite, received both; leave one out")
    paths = [blocks.paths[i] for i in indices]
    block_paths = [path for path in paths if path.parent == blocks.folder]
    result_paths = [path for path in paths if path.parent != blocks.folder]
    existing = [path for path in paths if path.exists()]
    if existing and not resume and not overwrite:
        raise OutputError(
            f"expected no blocks of an earlier run, received {existing[0]} that exists; pass --resume to resume it or "
            "--overwrite to start again"
        )
    if blocks.merge:
        check_result(blocks.target, overwrite or resume or blocks.append, inputs)
        result_paths += [blocks.target] if len(indices) == len(blocks.blocks) and not blocks.append else []
    for path in result_paths if resume and not overwrite else ():
        if path.exists() and not is_own(path):
            raise OutputError(
                f"expected an output of an earlier run, received {path}, which has another origin or was changed; pass "
                "--overwrite to replace it, or choose another name"
            )
    if block_paths:
        blocks.folder.mkdir(exist_ok=True)
    for path in paths:
        check_result(path, True, inputs)
        check_target(manifest_path(path), True, inputs)
    if overwrite and not resume:
        for path in result_paths:
            remove_manifest(path)
        clear(blocks.folder, block_paths)
        if block_paths:
            blocks.folder.mkdir(exist_ok=True)


def require_later(blocks: BlockPlan) -> None:
    """Raise an InputError unless the record follows the store to which it is appended."""
    with xr.open_zarr(blocks.target, chunks=None, decode_coords="all", consolidated=False) as ds:
        old = record_of(ds)
    dates = blocks.record.dates
    if old.dates is None or dates is None or not old.size:
        return
    calendars = [getattr(values[0], "calendar", "standard") for values in (old.dates, dates)]
    if calendars[0] != calendars[1]:
        raise InputError(f"expected the calendar {calendars[0]!r} of {blocks.target}, received {calendars[1]!r}")
    if not dates[0] > old.dates[-1]:
        raise InputError(
            f"expected times after {old.dates[-1]}, the last of {blocks.target}, received {dates[0]}; append a later "
            "period"
        )


def check_result(path: str | Path, overwrite: bool, inputs: tuple[str, ...]) -> Path:
    """Return the path of a NetCDF file or a Zarr store that may be written."""
    return (check_store if str(path).endswith(STORE) else check_netcdf)(path, overwrite, inputs)


def block_size(blocks: BlockPlan, plan: Plan) -> str:
    """Return the size of a block as text."""
    longest = max(block.stop - block.start for block in blocks.blocks)
    return readable_bytes(plan.output_bytes * longest // blocks.record.size)
