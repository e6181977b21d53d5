"""The result of a run: its plan, check report, files and timings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from downscale.conservation.report import ConservationReport
from downscale.engine.plan import Plan

if TYPE_CHECKING:
    from downscale.report.pictures import Picture
    from downscale.runs.recipe import Recipe


@dataclass
class Outcome:
    """The result of a run.

    Attributes
    ----------
    recipe : Recipe
        The recipe of the run.
    plan : Plan
        The plan of the run.
    conservation : ConservationReport or None
        Report of the check of the written file; None after a dry run.
    self_validation, terrain_penalty : dict
        Errors of predicting the coarse field from its own coarsening; penalty before and after.
    files : list of Path
        Files that the run wrote.
    seconds : float
        Wall time.
    blocks, kept : int
        Number of blocks of the run, and how many of an earlier run were kept.
    stages : dict
        Seconds spent in each stage.
    command : str
        Command line that reproduces the run, if it was started by one.
    pictures : list of Picture
        Pictures of the report.
    """

    recipe: Recipe
    plan: Plan
    conservation: ConservationReport | None = None
    self_validation: dict[str, dict[str, float]] = field(default_factory=dict)
    terrain_penalty: dict[str, dict[str, float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    blocks: int = 0
    kept: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    command: str = ""
    pictures: list[Picture] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds spent within the block, under a name."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin
