"""Two methods side by side, as a report tells them (knows numbers and words; runs nothing)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Numbers shown for each of two methods, and what they are called; {} stands for the units of the field.
SIDES = {
    "cell_error": "largest relative error of a coarse cell",
    "detail": "detail added within coarse cells, {}",
    "per_km": "of it with relief, {} a km",
    "relief_correlation": "its correlation with relief",
    "gradient": "root-mean-square gradient, {} in 100 km",
    "coarser_rmse": "self-validation: RMSE, {}",
    "coarser_ratio": "self-validation: RMSE / bilinear",
}


@dataclass(frozen=True)
class Beside:
    """Two methods side by side.

    Attributes
    ----------
    sides : (mapping, mapping)
        Label and numbers of each, by the keys of ``SIDES``.
    picture : Path or None
        The map of the second.
    units : str
        Of the field.
    note : str
        What else people should know.
    """

    sides: tuple[Mapping[str, Any], ...]
    picture: Path | None = None
    units: str = "1"
    note: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, its head first."""
        head = ("", *(str(side["label"]) for side in self.sides))
        return [head, *((words.format(self.units), *self._numbers(key)) for key, words in SIDES.items())]

    def _numbers(self, key: str) -> tuple[str, ...]:
        return tuple("-" if side[key] is None else f"{side[key]:.3g}" for side in self.sides)
