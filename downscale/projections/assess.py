"""Assessment of a projection: validation, change signals, tables and the report, from its lazy fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.conservation.report import ConservationReport
from downscale.projections.baselines import BASELINES, baselines
from downscale.projections.cells import fields_in
from downscale.projections.page import ADJUSTED, FINE, write_page
from downscale.projections.signal import change_signal
from downscale.projections.validation import validate, write_tables
from downscale.projections.years import Years

HISTORICAL, RAW = "historical", "raw"


@dataclass(frozen=True, eq=False)
class Fields:
    """Lazy daily fields of one model, by experiment with "historical" among them.

    Attributes
    ----------
    observed : Dataset
        Fine observations.
    raw, adjusted, fine : mapping of experiment to Dataset
        The model on its own grid, the adjusted fields on the same grid, and the fine fields.
    """

    observed: xr.Dataset
    raw: Mapping[str, xr.Dataset]
    adjusted: Mapping[str, xr.Dataset]
    fine: Mapping[str, xr.Dataset]

    @property
    def scenarios(self) -> list[str]:
        """Experiments other than the historical one."""
        return [name for name in self.fine if name != HISTORICAL]


@dataclass
class Assessment:
    """Scores of a projection on the years of validation, change signals by scenario, and the files written."""

    scores: xr.Dataset | None = None
    signals: dict[str, xr.Dataset] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def assess(
    fields: Fields,
    *,
    reference: Years,
    validation: Years | None = None,
    future: Years | None = None,
    variables: Any = None,
    settings: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    more: Mapping[str, Mapping[str, xr.Dataset]] | None = None,
    paired: bool = False,
    indices: bool = True,
) -> Assessment:
    """Return the scores and change signals of a projection, and of its baselines.

    Parameters
    ----------
    fields : Fields
        The fields of all steps.
    reference, validation, future : (int, int)
        First and last year of the training, of the scores and of scenarios. Without ``validation`` there are no scores,
        without ``future`` the signal takes all years of a scenario.
    variables : str or list of str, optional
        By default all that the steps have in common.
    settings : mapping of name to settings, optional
        Settings of the adjustment, which the quantile mapping of the baselines uses too.
    labels : sequence of str
        Baselines to compute, among ``BASELINES``.
    more : mapping of label to mapping of experiment to Dataset, optional
        Further fine fields, such as a member of an ensemble.
    paired : bool
        Whether days of the model correspond to those of the observations.
    indices : bool
        Whether to compute indices of extremes.
    """
    stages = {"observations": fields.observed, RAW: fields.raw[HISTORICAL], ADJUSTED: fields.adjusted[HISTORICAL],
              FINE: fields.fine[HISTORICAL]}  # fmt: skip
    names = fields_in(stages, variables)
    chosen = [HISTORICAL, *fields.scenarios]
    others: dict[str, Mapping[str, xr.Dataset]] = dict(more or {})
    if labels:
        others |= baselines(
            fields.observed, fields.raw[HISTORICAL], {name: fields.raw[name] for name in chosen},
            {name: fields.adjusted[name] for name in chosen}, reference_period=reference, variables=names,
            settings=settings, labels=tuple(label for label in BASELINES if label in labels),
        )  # fmt: skip
    result, coarse = Assessment(), fields.adjusted[HISTORICAL]
    if validation is not None:
        candidates = {FINE: fields.fine[HISTORICAL], **{label: one[HISTORICAL] for label, one in others.items()}}
        result.scores = validate(
            fields.observed, candidates, coarse=coarse, variables=names, period=validation, paired=paired,
            indices=indices,
        )  # fmt: skip
    for name in fields.scenarios:
        before, after = (
            {RAW: fields.raw[key], ADJUSTED: fields.adjusted[key], FINE: fields.fine[key],
             **{label: one[key] for label, one in others.items()}}
            for key in (HISTORICAL, name)
        )  # fmt: skip
        result.signals[name] = change_signal(
            before, after, coarse=coarse, fine=fields.observed, variables=names, reference_period=reference,
            future_period=future,
        )  # fmt: skip
    return result


def write_assessment(
    result: Assessment,
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, Mapping[str, Any]],
    choices: Sequence[str] = (),
    conservation: Mapping[str, ConservationReport] | None = None,
    **words: str,
) -> list[Path]:
    """Write the tables and the report of an assessment into a folder; return the files.

    Parameters
    ----------
    result : Assessment
        Scores and signals.
    folder : Path
        An existing folder; files are ``validation`` and ``change_SCENARIO`` with their endings, and ``report.html``.
    title, facts, choices, conservation, **words
        As for :func:`~downscale.projections.page.write_page`.
    """
    if result.scores is not None:
        result.files += write_tables(result.scores, folder)
    for name, signal in result.signals.items():
        result.files += write_tables(signal, folder, f"change_{name}")
    page = folder / "report.html"
    write_page(
        page, title=title, facts=facts, choices=choices, conservation=conservation, scores=result.scores,
        signals=result.signals, **words,
    )  # fmt: skip
    result.files.append(page)
    return result.files
