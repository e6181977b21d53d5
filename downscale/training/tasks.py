"""Keys of a recipe that each task allows."""

from __future__ import annotations

from downscale.errors import OptionError
from downscale.training.schema import TrainingRecipe

# Keys of the training block for the loss on fields; a mask has its own loss.
FIELD_KEYS = ("loss", "loss_scale", "members")
# The block that only this task has.
BLOCKS = {"segmentation": "event", "compression": "code"}


def require_task(recipe: TrainingRecipe) -> None:
    """Raise an OptionError if task and blocks of a recipe do not match.

    Raises
    ------
    OptionError
        With one line.
    """
    for task, block in BLOCKS.items():
        given = getattr(recipe, block) is not None
        article = "an" if block == "event" else "a"
        if given and recipe.task != task:
            raise OptionError(f"expected task: {task} with {article} {block}, received task: {recipe.task}; set it")
        if not given and recipe.task == task:
            raise OptionError(f"expected {article} {block} with task: {task}, received none; give one")
    if recipe.task == "downscaling":
        return
    if recipe.task == "segmentation" and len(recipe.data.outputs) != 1:
        raise OptionError(f"expected one output with task: segmentation, received {len(recipe.data.outputs)}")
    if recipe.task == "segmentation" and (unused := _unused(recipe)):
        raise OptionError(
            f"training.{unused}: expected no such key with task: segmentation, received "
            f"{getattr(recipe.training, unused)!r}; the loss of a mask is event.loss, remove training.{unused}"
        )
    if any(recipe.network.noise):
        raise OptionError(f"expected no network.noise with task: {recipe.task}, received {recipe.network.noise}")
    if recipe.task == "compression" and any(pair.coarse is not None for pair in recipe.data.pairs):
        raise OptionError("expected fine files only with task: compression, whose coarse fields are their averages; "
                          "remove coarse")  # fmt: skip


def _unused(recipe: TrainingRecipe) -> str | None:
    """Return a key of the training block that the recipe sets and the training of a mask ignores."""
    return next((key for key in FIELD_KEYS if key in recipe.training.model_fields_set), None)
