"""Computation of all blocks of a run, locally or on a cluster; it can be stopped at any time and resumed."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.cf.coordinates import select
from downscale.check.conservation import check_conservation
from downscale.conservation.report import ConservationReport
from downscale.engine.plan import Plan
from downscale.errors import DownscaleError, OptionError
from downscale.io.encoding import Packing
from downscale.io.leases import only_run, require_no_run
from downscale.io.merge import merge_files
from downscale.options import get_options, option, set_options
from downscale.process.interrupts import Stopped, Terminated, go_on, telling, what_came
from downscale.runs.blocks import named
from downscale.runs.clusters import client_of, profile_of
from downscale.runs.cutting import Cutting, absolute
from downscale.runs.recipe import Recipe
from downscale.runs.reports import joined, report_of
from downscale.runs.retry import retried
from downscale.runs.seals import clear, seal, sweep, unseal, verified
from downscale.runs.single import judging
from downscale.runs.spread import spread
from downscale.runs.work import Work, carry_out, forget

Tell = Callable[[], None]


@dataclass(frozen=True)
class How:
    """Options for the computation of blocks.

    Attributes
    ----------
    resume : bool
        Keep blocks that verify.
    cluster : str or None
        A profile of the recipe, "local", "slurm", "pbs", a cluster of GPUs, or an address.
    workers : int or None
        Number of workers of a cluster that is started here.
    block : int or None
        Only this block.
    """

    resume: bool = False
    cluster: str | None = None
    workers: int | None = None
    block: int | None = None

    @property
    def asked(self) -> bool:
        """Whether any option is set."""
        return self != How()


@dataclass
class Result:
    """Reports and files of the blocks."""

    conservation: ConservationReport | None
    files: list[Path] = field(default_factory=list)
    count: int = 0
    kept: int = 0


def chosen_blocks(cutting: Cutting, how: How) -> list[int]:
    """Return the indices of the selected blocks.

    Raises
    ------
    OptionError
        If the number is not that of a block.
    """
    count = len(cutting.blocks)
    if how.block is None:
        return list(range(count))
    if not 0 <= how.block < count:
        raise OptionError(f"expected a block from 0 to {count - 1}, received {how.block}")
    return [how.block]


def carry_blocks(recipe: Recipe, coarse: xr.Dataset, plan: Plan, cutting: Cutting, how: How) -> Result:
    """Compute all missing blocks, and merge them if requested.

    Raises
    ------
    Stopped
        If a signal was received or a cluster was lost; finished blocks are kept.
    DownscaleError
        If a block cannot be computed or does not conserve cell means; finished blocks are kept.
    """
    chosen = chosen_blocks(cutting, how)
    files = cutting.outputs if how.block is None else [cutting.paths[how.block]]
    if how.resume and cutting.merge:
        facts = verified(cutting.target, cutting.request, cutting.span)
        if facts is not None:
            _tidy(cutting)
            return Result(report_of(facts["report"]), [cutting.target], len(chosen), len(chosen))
    with _stoppable(cutting):
        sweep([*(cutting.paths[i] for i in chosen), *([] if how.block is not None else [cutting.target])])
        made = _all_made(recipe, cutting, how, chosen)
        reports = [report_of(one["report"]) for one in made]
        result = Result(joined(reports), files, len(made), sum(one["kept"] for one in made))
        if cutting.merge and how.block is None and len(cutting.paths) > 1:
            result.conservation = _merged(recipe, coarse, plan, cutting)
    return result


@contextmanager
def alone(cutting: Cutting, how: How) -> Iterator[None]:
    """Lock all blocks, or a single one, against other runs; remove the folder of blocks if it is empty.

    Raises
    ------
    OutputError
        If another run holds the lock.
    """
    whole = how.block is None
    # The folder of the result exists before that of the blocks.
    names = [cutting.target.with_name(path.name) for path in cutting.paths]
    with only_run(cutting.target if how.block is None else names[how.block]):
        for name in names if whole else [cutting.target]:
            if name != cutting.target or not whole:
                require_no_run(name)
        try:
            yield
        finally:
            if whole:
                with suppress(OSError):
                    cutting.folder.rmdir()


@contextmanager
def _stoppable(cutting: Cutting) -> Iterator[None]:
    """Report the progress of a run that ends early, and remove incomplete files."""

    def state() -> str:
        sweep([*cutting.paths, cutting.target])
        count = len(cutting.blocks)
        are = "block is" if count == 1 else "blocks are"
        return f"{cutting.finished} of {count} {are} done; run again with --resume"

    try:
        with telling(state):
            yield
    except (KeyboardInterrupt, Terminated) as signal:
        raise Stopped(f"{what_came(signal)}; {state()}") from None
    except Stopped as stopped:
        raise Stopped(f"{stopped}; {state()}") from None
    except DownscaleError as error:
        if len(cutting.blocks) == 1:
            state()
            raise
        raise type(error)(f"{error}; {state()} once that is fixed") from error
    except OSError as error:
        raise Stopped(f"{type(error).__name__}: {error}; {state()} once that is fixed") from error
    finally:
        forget()


def _all_made(recipe: Recipe, cutting: Cutting, how: How, chosen: list[int]) -> list[dict[str, Any]]:
    """Compute the selected blocks, and return their check reports."""
    cluster = how.cluster or ("local" if (how.workers or 1) > 1 and recipe.dask.use is None else None)
    profile = profile_of(cluster, recipe.dask)
    known = absolute(recipe) if profile is not None else recipe
    options = {name: value for name, value in get_options().items() if name != "progress"}
    works = [cutting.work(i, known, how.resume, options) for i in chosen]
    if profile is None:
        with _bar(len(works)) as tell, set_options(progress="off") if len(works) > 1 else nullcontext():
            return [_counted(carry_out(work), tell) for work in works]
    works = [_placed(work) for work in works]
    with _bar(len(works)) as tell, client_of(profile, how.workers) as client:
        return spread(client, works, tell)


def _placed(work: Work) -> Work:
    """Return the work with an absolute path for its file."""
    return replace(work, path=str(Path(work.path).absolute()))


def _counted(made: dict[str, Any], tell: Tell) -> dict[str, Any]:
    tell()
    go_on()
    return made


@contextmanager
def _bar(count: int) -> Iterator[Tell]:
    """Yield a function to call after each block, which advances a progress bar on a terminal."""
    wanted = option("progress")
    if count == 1 or wanted == "off" or (wanted == "auto" and not sys.stderr.isatty()):
        with nullcontext():
            yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("blocks", total=count)
        yield lambda: progress.advance(task)


def _merged(recipe: Recipe, coarse: xr.Dataset, plan: Plan, cutting: Cutting) -> ConservationReport | None:
    """Merge the blocks, check the merged file, write its checksum file, and remove the blocks."""
    given = coarse if recipe.input.variables is None else select(coarse, recipe.input.variables)

    def checker(made: xr.Dataset) -> ConservationReport:
        return check_conservation(given, made, **judging(recipe))

    packing = recipe.output.packing
    packings: dict[str, Packing] = {}
    if packing is not None:
        packings = dict(packing) if isinstance(packing, dict) else dict.fromkeys(plan.variables, packing)
    unseal(cutting.target)
    assert cutting.record.dim is not None
    arguments = (cutting.paths, cutting.target, cutting.record.dim, checker if cutting.judge else None, packings)
    report = retried(merge_files, *arguments)
    facts = None if report is None else report.to_dict()
    retried(seal, cutting.target, cutting.request, cutting.span, facts)
    _tidy(cutting)
    return report


def _tidy(cutting: Cutting) -> None:
    """Remove merged blocks, and those of an earlier run with another division into blocks."""
    stem, suffix = named(cutting.target)
    clear(cutting.folder, [*cutting.folder.glob(f"{glob.escape(stem)}_*{suffix}")])
