"""Small training recipes on the embedded sample, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from downscale.training.pairs import Source, open_source
from downscale.training.schema import Data, Network, TrainingRecipe, parse_training

SAMPLE = {"fine": "sample:north_america", "orog": "sample:north_america_relief"}
# The relief is finer than the sample, which is the truth here.
TINY_NETWORK = {"name": "residual", "options": {"width": 8, "depth": 1}}


def recipe_content(folder: Path, **training: Any) -> dict[str, Any]:
    """A recipe that trains for seconds."""
    return {
        "data": {"factor": 4, "outputs": ["tas"], "statics": ["orog"], "pairs": [dict(SAMPLE)]},
        "patches": {"size": 6},
        "network": TINY_NETWORK,
        "training": {"steps": 6, "round": 3, "batch": 4, "accelerator": "cpu", "devices": 1, **training},
        "output": {"path": str(folder / "model.safetensors")},
    }


def tiny_recipe(folder: Path, **training: Any) -> TrainingRecipe:
    """The same, checked."""
    return parse_training(recipe_content(folder, **training))


def data_block(*pairs: dict[str, Any], **more: Any) -> Data:
    """What is learned from."""
    content: dict[str, Any] = {"factor": 4, "outputs": ["tas"], "pairs": list(pairs or [SAMPLE]), **more}
    return Data.model_validate(content)


def source_of(*pairs: dict[str, Any], **more: Any) -> Source:
    """The first source of such data."""
    data = data_block(*pairs, **more)
    return open_source(data.pairs[0], data, Network())
