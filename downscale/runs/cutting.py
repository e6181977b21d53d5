"""The division of a run into blocks, their file names, and existing outputs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.engine.plan import Plan, readable_bytes
from downscale.errors import OptionError, OutputError, counted
from downscale.io.encoding import SHORT
from downscale.io.paths import address_of, check_netcdf, check_target
from downscale.io.read import sources_of
from downscale.methods.learned import SUFFIX
from downscale.request import Request
from downscale.runs.blocks import Block, Record, cut, default_blocks, record_of, stride
from downscale.runs.recipe import Recipe
from downscale.runs.seals import clear, fingerprint, is_own, seal_path, unseal
from downscale.runs.single import SAMPLE, STORE, has_means, static_sources
from downscale.runs.work import Work
from downscale.steps.stages import split


@dataclass(frozen=True)
class Cutting:
    """The blocks of a run.

    Attributes
    ----------
    record : Record
        The steps of the input.
    blocks : list of Block
        All blocks in order.
    paths : list of Path
        The file of each block.
    target : Path
        The merged file, if blocks are merged.
    merge : bool
        Whether blocks are merged.
    request : str
        Fingerprint of request, version and inputs.
    judge : bool
        Whether there are means to check.
    """

    record: Record
    blocks: list[Block]
    paths: list[Path]
    target: Path
    merge: bool
    request: str
    judge: bool

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
    def finished(self) -> int:
        """Number of blocks with a file and a checksum file."""
        return sum(path.exists() and seal_path(path).exists() for path in self.paths)

    def work(self, index: int, recipe: Recipe, resume: bool, options: dict[str, Any]) -> Work:
        """Return the description of a block for the process that computes it."""
        block = self.blocks[index]
        return Work(
            recipe=recipe.model_dump_json(by_alias=True, exclude={"dask"}, exclude_unset=True),
            path=str(self.paths[index]), dim=self.record.dim, start=block.start, stop=block.stop, size=self.record.size,
            stride=stride(self.blocks), request=self.request, judge=self.judge, resume=resume, options=options,
        )  # fmt: skip

    def __str__(self) -> str:
        count = len(self.blocks)
        if count == 1:
            return "1 block (--block 0)"
        longest = max(block.stop - block.start for block in self.blocks)
        then = "then merged" if self.merge else "one file each"
        steps = counted(longest, "step")
        return f"{count} blocks of up to {steps} along {self.record.dim} (--block 0 to {count - 1}), {then}"


def blocks_folder(target: Path) -> Path:
    """Return the hidden folder for the blocks of a file."""
    return target.with_name(f".{target.name}.blocks")


def cut_run(recipe: Recipe, coarse: xr.Dataset, request: Request, plan: Plan) -> Cutting:
    """Divide a run into blocks.

    Raises
    ------
    OptionError, InputError
        If the requested division is not possible.
    """
    output = recipe.output
    if output.path.endswith(STORE):
        raise OptionError(f"expected a NetCDF file for a run in blocks, received {output.path}; give a name with .nc")
    record = record_of(coarse)
    if record.dim in {step.dim for step in split(coarse, request)[0]}:
        if output.blocks is not None:
            raise OptionError(
                f"expected no blocks along {record.dim!r}, whose steps a factor or target along it couples, received "
                f"blocks={output.blocks!r}; leave blocks out, or refine {record.dim!r} in a run of its own"
            )
        record = Record(None, 1, None)
    blocks = cut(record, default_blocks(plan.output_bytes, record.size) if output.blocks is None else output.blocks)
    target = Path(output.path).expanduser()
    if not output.merge:
        paths = [block.path(target) for block in blocks]
    elif len(blocks) == 1:
        paths = [target]
    else:
        paths = [blocks_folder(target) / block.path(target).name for block in blocks]
        packing = output.packing
        if SHORT in (packing.values() if isinstance(packing, dict) else [packing]):
            raise OptionError(
                f"expected packing in bits for blocks that are merged, received {SHORT!r}, whose range is that of one "
                "block; give a number of bits, or leave the blocks apart (merge: false, --no-merge)"
            )
    files = (*sources_of(coarse), *static_sources(recipe))
    identity = fingerprint(absolute(recipe), files)
    return Cutting(record, blocks, paths, target, output.merge, identity, has_means(recipe, plan))


def absolute(recipe: Recipe) -> Recipe:
    """Return a recipe with absolute paths."""

    def full(name: Any, only_files: bool = False) -> Any:
        if isinstance(name, list):
            return [full(each) for each in name]
        if not isinstance(name, str) or name.startswith(SAMPLE) or address_of(name) is not None:
            return name
        if only_files and not Path(name).expanduser().exists():
            return name
        return os.path.abspath(os.path.expanduser(name))

    method = recipe.downscale.method
    changes: dict[str, Any] = {
        "input": recipe.input.model_copy(update={"path": full(recipe.input.path)}),
        "output": recipe.output.model_copy(update={"path": full(recipe.output.path)}),
        "downscale": recipe.downscale.model_copy(
            update={
                "mask": full(recipe.downscale.mask),
                "sftlf": full(recipe.downscale.sftlf),
                "target_grid": full(recipe.downscale.target_grid, True),
                "method": full(method) if method.endswith(SUFFIX) else method,
            }
        ),
    }
    if recipe.statics is not None:
        changes["statics"] = recipe.statics.model_copy(update={"orog": full(recipe.statics.orog)})
    return recipe.model_copy(update=changes)


def make_room(cutting: Cutting, chosen: list[int], inputs: tuple[str, ...], *, resume: bool, overwrite: bool) -> None:
    """Check all outputs before any work is done, and remove blocks of an earlier run that are to be computed again.

    An existing result is kept until the new one replaces it.

    Raises
    ------
    OutputError
        If an output exists and can be neither resumed nor replaced, or cannot be written.
    """
    paths = [cutting.paths[i] for i in chosen]
    parts = [path for path in paths if path.parent == cutting.folder]
    results = [path for path in paths if path.parent != cutting.folder]
    there = [path for path in paths if path.exists()]
    if there and not resume and not overwrite:
        raise OutputError(
            f"expected no blocks of an earlier run, received {there[0]} that exists; pass --resume to resume it or "
            "--overwrite to start again"
        )
    if cutting.merge:
        check_netcdf(cutting.target, overwrite or resume, inputs)
        results += [cutting.target] if len(chosen) == len(cutting.blocks) else []
    for path in results if resume and not overwrite else ():
        if path.exists() and not is_own(path):
            raise OutputError(
                f"expected an output of an earlier run, received {path}, which has another origin or was changed; pass "
                "--overwrite to replace it, or choose another name"
            )
    if parts:
        cutting.folder.mkdir(exist_ok=True)
    for path in paths:
        check_target(path, True, inputs)
        check_target(seal_path(path), True, inputs)
    if overwrite and not resume:
        for path in results:
            unseal(path)
        clear(cutting.folder, parts)
        if parts:
            cutting.folder.mkdir(exist_ok=True)


def size_of(cutting: Cutting, plan: Plan) -> str:
    """Return the size of a block as text."""
    longest = max(block.stop - block.start for block in cutting.blocks)
    return readable_bytes(plan.output_bytes * longest // cutting.record.size)
