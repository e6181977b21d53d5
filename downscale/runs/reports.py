"""Conversion of check reports from plain values, and merging of the reports of blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from downscale.conservation.report import ConservationReport, VariableReport

NAMES = [one.name for one in fields(VariableReport)]
COUNTS = ("cells_checked", "cells_masked", "cells_lost", "cells_invented", "values_out_of_bounds", "near_checked",
          "near_failed", "cells_with_gaps", "negative_values")  # fmt: skip


def report_of(facts: dict[str, Any] | None) -> ConservationReport | None:
    """Return the report of the values of :meth:`~downscale.conservation.report.ConservationReport.to_dict`."""
    if facts is None:
        return None
    variables = {
        name: VariableReport(**{key: one[key] for key in NAMES if key in one})
        for name, one in facts["variables"].items()
    }
    return ConservationReport(variables)


def joined(reports: Iterable[ConservationReport | None]) -> ConservationReport | None:
    """Return one report for several pieces of a record: the largest errors, and the sums of the counts."""
    made: dict[str, VariableReport] = {}
    known = [report for report in reports if report is not None]
    for report in known:
        for name, one in report.variables.items():
            made[name] = _both(made[name], one) if name in made else one
    return ConservationReport(made) if known else None


def _both(first: VariableReport, second: VariableReport) -> VariableReport:
    relative = max(first, second, key=lambda one: one.max_relative_error)
    absolute = max(first, second, key=lambda one: one.max_absolute_error)
    near = max(first, second, key=lambda one: one.near_error)
    return replace(
        first,
        near_error=near.near_error, where_near=near.where_near, near_bound=max(first.near_bound, second.near_bound),
        max_relative_error=relative.max_relative_error, where_relative=relative.where_relative,
        max_absolute_error=absolute.max_absolute_error, where_absolute=absolute.where_absolute,
        global_error=max(first.global_error, second.global_error),
        tolerance=max(first.tolerance, second.tolerance),
        cells_outside=max(first.cells_outside, second.cells_outside),
        **{name: getattr(first, name) + getattr(second, name) for name in COUNTS},
    )  # fmt: skip
