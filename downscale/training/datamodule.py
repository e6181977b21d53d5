"""Lightning loaders of training and validation patches, with rounds that follow the training's progress."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from downscale.training.draws import Draws, Key
from downscale.training.patches import PatchSet, collate
from downscale.training.progress import Progress, steps_of_round
from downscale.training.schema import Training


class Rounds(torch.utils.data.Sampler[list[Key]]):
    """Batches of one process in the current round; an interrupted round resumes at its next batch.

    The sampler has no length, because rounds differ in length.
    """

    def __init__(self, draws: Draws, how: Training, progress: Progress, rank: int, world: int) -> None:
        self.draws, self.how, self.progress, self.rank, self.world = draws, how, progress, rank, world

    def __iter__(self) -> Iterator[list[Key]]:
        batch, done = self.how.batch, self.progress.done
        keys = self.draws.round(self.progress.round, self.how.round * batch * self.world)[self.rank :: self.world]
        for number in range(done, done + steps_of_round(self.progress, self.how)):
            yield keys[number * batch : (number + 1) * batch]


class PatchData(lightning.LightningDataModule):
    """Training and validation patches of all sources.

    Parameters
    ----------
    patches : PatchSet
        Patches by their keys.
    Sampler of the patches of each round.
        Which patches each round sees.
    held : list of Key
        Keys of the validation patches.
    how : Training
        The recipe's settings.
    progress : Progress
        Progress of the training.
    factor : (int, int)
        Refinement of rows and columns.
    """

    def __init__(
        self,
        patches: PatchSet,
        draws: Draws,
        held: list[Key],
        how: Training,
        progress: Progress,
        factor: tuple[int, int],
    ) -> None:
        super().__init__()
        self.patches, self.draws, self.held, self.how, self.progress = patches, draws, held, how, progress
        self.factor = factor

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of all rounds."""
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        return self._loader(self.patches, batch_sampler=Rounds(self.draws, self.how, self.progress, rank, world))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of validation patches."""
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        own = self.held[rank::world]
        batches = [own[i : i + self.how.batch] for i in range(0, len(own), self.how.batch)]
        return self._loader(self.patches.tiled(), batch_sampler=batches)

    def _loader(self, patches: PatchSet, **given: Any) -> DataLoader[Any]:
        workers = self.how.workers
        return DataLoader(
            patches,
            num_workers=workers,
            collate_fn=partial(collate, factor=self.factor),
            persistent_workers=workers > 0,
            # Forked processes must not share open files.
            multiprocessing_context="spawn" if workers else None,
            # Each loader takes a random number: not from the generator that a resumed run restores.
            generator=torch.Generator().manual_seed(self.how.seed),
            **given,
        )
