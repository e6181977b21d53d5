"""The table that compares two methods in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Quantities of each method and their labels; {} is replaced by the units of the field.
SIDES = {
    "cell_error": "largest relative error of a coarse cell",
    "detail": "detail added within coarse cells, {}",
    "per_km": "slope of detail over orography, {} per km",
    "relief_correlation": "correlation of detail with orography",
    "gradient": "root-mean-square gradient, {} per 100 km",
    "coarser_rmse": "self-validation: RMSE, {}",
    "coarser_ratio": "self-validation: RMSE / bilinear",
}


@dataclass(frozen=True)
class Beside:
    """A comparison of two methods.

    Attributes
    ----------
    sides : (mapping, mapping)
        Label and quantities of each method, by the keys of ``SIDES``.
    picture : Path or None
        Map of the second method.
    units : str
        Units of the field.
    note : str
        Further remarks.
    """

    sides: tuple[Mapping[str, Any], ...]
    picture: Path | None = None
    units: str = "1"
    note: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, with the header first."""
        head = ("", *(str(side["label"]) for side in self.sides))
        return [head, *((words.format(self.units), *self._numbers(key)) for key, words in SIDES.items())]

    def _numbers(self, key: str) -> tuple[str, ...]:
        return tuple("-" if side[key] is None else f"{side[key]:.3g}" for side in self.sides)
