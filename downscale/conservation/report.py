"""The conservation report, as text, HTML and plain data."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from downscale.conservation.measures import PartialResult, global_error
from downscale.errors import ConservationError

HEAD = (
    "variable", "law", "passed", "max rel. error", "where", "max abs. error", "global error", "cells", "masked"
)  # fmt: skip


@dataclass(frozen=True)
class VariableReport:
    """Conservation errors of one variable.

    Attributes
    ----------
    name, units : str
        The variable.
    law : str
        "cell" (means of all coarse cells) or "total" (area integrals of all maps).
    max_relative_error, max_absolute_error : float
        Largest error of a coarse cell; relative to the larger of its value and the mean size of its fine values.
    where_relative, where_absolute : mapping
        Coordinates of those cells; empty if there is no error at all.
    global_error : float
        Largest relative error of the area integral of a map.
    cells_checked, cells_masked : int
        Coarse cells checked, and coarse cells without a value.
    cells_lost, cells_invented : int
        Coarse cells with a value but no fine value, and the reverse.
    values_out_of_bounds : int
        Fine values outside the bounds.
    tolerance : float
        Largest relative error that passes.
    cells_outside : int
        Coarse cells (of one map) that the fine grid does not cover completely; only the covered part is checked.
    compared : str
        Compared areas: "cells" (each coarse cell), else the smallest unions of cells of both grids: "regions", "bands"
        (over the whole length of an axis) or the "whole area".
    per_map : int
        Number of compared areas per map.
    near_checked, near_failed : int
        Coarse cells whose neighbourhood was compared with an expected fine field, and those that exceeded their bound.
    near_error : float
        Largest relative excess of a coarse cell over its bound, at ``where_near``.
    near_bound : float
        Largest bound of a coarse cell, relative: errors of single cells below it may pass.
    expected : str
        The method of the expected field.
    areas : str
        Source of the areas that weight the global error; empty if they are computed from the cells.
    cells_with_gaps : int
        Coarse cells checked whose fine values are partly missing: the mean of the rest is compared.
    negative_values : int
        Negative fine values if no coarse value is negative and no lower bound is known; a warning, not a failure.
    orderings : tuple of str
        The orders with other variables that were checked, such as "tasmin <= tas".
    values_out_of_order : int
        Fine values out of order, in coarse cells that are in order.
    cells_out_of_order : int
        Coarse cells that are out of order themselves, the worst at ``where_out_of_order``; their means have priority.
    """

    name: str
    units: str
    law: str
    max_relative_error: float
    where_relative: Mapping[str, Any]
    max_absolute_error: float
    where_absolute: Mapping[str, Any]
    global_error: float
    cells_checked: int
    cells_masked: int
    cells_lost: int
    cells_invented: int
    values_out_of_bounds: int
    tolerance: float
    cells_outside: int = 0
    compared: str = "cells"
    per_map: int = 0
    near_checked: int = 0
    near_failed: int = 0
    near_error: float = 0.0
    where_near: Mapping[str, Any] = field(default_factory=dict)
    near_bound: float = 0.0
    expected: str = ""
    areas: str = ""
    cells_with_gaps: int = 0
    negative_values: int = 0
    orderings: tuple[str, ...] = ()
    values_out_of_order: int = 0
    cells_out_of_order: int = 0
    where_out_of_order: Mapping[str, Any] = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """The verified form of conservation: "cell" only if every coarse cell was checked."""
        if self.law != "cell" or (self.compared == "cells" and not self.cells_outside):
            return self.law
        return self.compared if self.per_map == 1 else f"{self.compared} ({self.per_map} per map)"

    @property
    def neighbourhoods(self) -> str:
        """One line on single coarse cells if larger regions were compared, else empty."""
        if self.law != "cell" or self.compared == "cells":
            return ""
        if not self.near_checked:
            return f"{self.name}: {self.claim} compared; single coarse cells were not"
        return (
            f"{self.name}: besides {self.claim}, the neighbourhoods of {self.near_checked} coarse cells compared with "
            f"the field that {self.expected} makes, each to {max(self.near_bound, self.tolerance):.1e} of the mean "
            "magnitude or less"
        )

    @property
    def decisive_error(self) -> float:
        """The error that decides whether the check passes."""
        return self.max_relative_error if self.law == "cell" else self.global_error

    @property
    def passed(self) -> bool:
        """Whether the check passes: error within tolerance, no cell lost or invented, values in bounds and order."""
        values = self.values_out_of_bounds + self.values_out_of_order
        faults = self.cells_lost + self.cells_invented + values + self.near_failed
        # A variable without any value passes, and the report notes it. A NaN error fails.
        return self.decisive_error <= self.tolerance and faults == 0 and self.cells_checked + self.cells_masked > 0

    @property
    def fault(self) -> str:
        """One line that states the fault, empty if there is none."""
        if self.passed:
            return ""
        if self.decisive_error > self.tolerance:
            place = f" at {_place(self.where_relative)}" if self.law == "cell" else ""
            return (
                f"{self.name}: expected the {self.law} law within {self.tolerance:g}, received a largest relative "
                f"error of {self.decisive_error:.3g}{place}"
            )
        if self.near_failed:
            return (
                f"{self.name}: expected the means near every coarse cell within what fine cells across its border "
                f"allow, received {self.near_failed} of {self.near_checked} beyond, the worst by {self.near_error:.3g} "
                f"(relative) at {_place(self.where_near)}; is the field shifted, turned, or are values misplaced?"
            )
        if not self.cells_checked:
            return f"{self.name}: expected coarse cells to check, received none with a value in both fields"
        if self.values_out_of_order:
            return (
                f"{self.name}: expected {' and '.join(self.orderings)}, received {self.values_out_of_order} fine "
                "values out of order"
            )
        return (
            f"{self.name}: expected none, received {self.cells_lost} coarse cells lost, {self.cells_invented} "
            f"invented and {self.values_out_of_bounds} fine values out of bounds"
        )

    @property
    def order(self) -> str:
        """One line on the order with other variables, empty if none was checked."""
        if not self.orderings or self.values_out_of_order:
            return ""
        line = f"{self.name}: {' and '.join(self.orderings)} holds"
        if not self.cells_out_of_order:
            return f"{line} everywhere"
        return (
            f"{line} but in {self.cells_out_of_order} coarse cells that are out of order themselves, the worst at "
            f"{_place(self.where_out_of_order)}"
        )


def finalize(
    name: str, partial: PartialResult, law: str, tolerance: float, units: str, locate: Any, outside: int = 0,
    compared: tuple[str, int] = ("cells", 0), expected: str = "", locate_cell: Any = None,
) -> VariableReport:  # fmt: skip
    """Turn the combined partial result into a report; ``locate`` maps an index of a region to coordinates."""
    return VariableReport(
        name=name,
        units=units,
        law=law,
        max_relative_error=partial.relative.value,
        where_relative=locate(partial.relative.index) if partial.relative.index else {},
        max_absolute_error=partial.absolute.value,
        where_absolute=locate(partial.absolute.index) if partial.absolute.index else {},
        global_error=global_error(partial),
        cells_checked=partial.cells_checked,
        cells_masked=partial.cells_masked,
        cells_lost=partial.cells_lost,
        cells_invented=partial.cells_invented,
        values_out_of_bounds=partial.values_out_of_bounds,
        tolerance=tolerance,
        cells_outside=outside,
        compared=compared[0],
        per_map=compared[1],
        near_checked=partial.near_checked,
        near_failed=partial.near_failed,
        near_error=partial.near.value,
        where_near=(locate_cell or locate)(partial.near.index) if partial.near.index else {},
        near_bound=partial.near_bound,
        expected=expected,
        cells_with_gaps=partial.cells_with_gaps,
    )


@dataclass(frozen=True)
class ConservationReport:
    """Check reports of all variables; true if every variable passes.

    Examples
    --------
    >>> bool(ConservationReport({}))
    False
    """

    variables: Mapping[str, VariableReport]

    @property
    def passed(self) -> bool:
        """Whether there is a variable and every one passed."""
        return bool(self.variables) and all(report.passed for report in self.variables.values())

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> VariableReport:
        return self.variables[name]

    @property
    def max_relative_error(self) -> float:
        """Largest relative error of a coarse cell over all variables."""
        return max((report.max_relative_error for report in self.variables.values()), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings for JSON."""
        variables = {
            name: asdict(report)
            | {"orderings": list(report.orderings), "passed": report.passed, "claim": report.claim}
            for name, report in self.variables.items()
        }
        return {"passed": self.passed, "variables": variables}

    def raise_if_failed(self) -> ConservationReport:
        """Return the report itself, or raise an error if a variable fails.

        Raises
        ------
        ConservationError
            One line for the first variable that fails: law, tolerance, error and place.
        """
        for report in self.variables.values():
            if not report.passed:
                raise ConservationError(report.fault)
        if not self.variables:
            raise ConservationError("expected variables to check, received none that both fields have")
        return self

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [HEAD]
        for r in self.variables.values():
            absolute = f"{r.max_absolute_error:.2e} {r.units}".strip()
            rows.append((
                r.name, r.claim, "yes" if r.passed else "NO", f"{r.max_relative_error:.2e}", _place(r.where_relative),
                absolute, f"{r.global_error:.2e}", str(r.cells_checked), str(r.cells_masked),
            ))  # fmt: skip
        return rows

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        faults = [report.fault for report in self.variables.values() if report.fault]
        faults += [
            f"{r.name}: {r.cells_outside} coarse cells lie wholly or partly outside the fine grid; only the "
            "covered part is checked"
            for r in self.variables.values()
            if r.cells_outside
        ]
        faults += [
            f"{r.name}: fine values are partly missing in {r.cells_with_gaps} of {r.cells_checked} coarse cells, whose "
            "other values are compared"
            for r in self.variables.values()
            if r.cells_with_gaps
        ]
        faults += [r.order for r in self.variables.values() if r.order]
        faults += [r.neighbourhoods for r in self.variables.values() if r.neighbourhoods]
        faults += [
            f"{r.name}: no coarse cell has a value, and so has no fine cell; check the input if you expected some"
            for r in self.variables.values()
            if r.passed and not r.cells_checked
        ]
        faults += [
            f"{r.name}: the total law is about the global error; its cells may differ"
            for r in self.variables.values()
            if r.passed and r.law == "total" and r.max_relative_error > r.tolerance
        ]
        verdict = "passed" if self.passed else "FAILED"
        tolerances = sorted({report.tolerance for report in self.variables.values()})
        head = f"ConservationReport: {verdict} (tolerance {', '.join(f'{t:g}' for t in tolerances)})"
        return "\n".join([head, *lines, *faults])

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        colour = "#1a7f37" if self.passed else "#b3261e"
        cells = "".join(f"<th style='text-align:left'>{html.escape(cell)}</th>" for cell in head)
        lines = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in body
        )
        verdict = "passed" if self.passed else "failed"
        faults = "".join(f"<p>{html.escape(r.fault)}</p>" for r in self.variables.values() if r.fault)
        return (
            f"<div><b style='color:{colour}'>Conservation: {verdict}</b>"
            f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>{faults}</div>"
        )


def _place(coordinates: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in coordinates.items()) or "-"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
