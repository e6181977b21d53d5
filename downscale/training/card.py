"""Model cards in markdown, and the cost of conservation on independent pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from downscale.fields.conserve import additive, bounded
from downscale.models.checkpoint import Record, load_record
from downscale.nn.spec import ModelSpec, Variable
from downscale.training.pairs import Source, Split, pick_evenly, read_coarse, read_truth
from downscale.training.statistics import Moments

# Mark of scores on times that were used in training.
SEEN = " [seen in training]"
# Number of maps that characterise a source.
MOST_MAPS = 48
# Relative increase of the error below which conservation counts as free.
SLIGHT = 0.01
LAWS = ("cell", "total", "none")
Floats = NDArray[np.float64]


def card(path: str | Path) -> str:
    """Return the card of a checkpoint as markdown."""
    spec, record = load_record(path)
    return card_text(spec, record, Path(path).name, Path(path).expanduser().stat().st_size)


def card_text(spec: ModelSpec, record: Record, name: str, size: int) -> str:
    """Return the card of a model."""
    roles = [(variable, "in and out") for variable in spec.outputs]
    roles += [(v, "code" if v.name in spec.code_names else "predictor") for v in spec.predictors]
    variables = [(v.name, role, v.units, _bounds(v), _transform(v)) for v, role in roles]
    licence = f"Weights: {record.licence}." if record.licence else "Weights: no licence recorded."
    sections = {
        f"# {record.title or name}": str(record.description).strip(),
        "": _table(("", ""), _facts(spec, record, name, size)),
        "## Variables": _table(("variable", "role", "units", "bounds", "transform"), variables),
        "## Skill": _skill(record),
        "## Learned from": _sources(record),
        "## Licence and attribution": "\n".join([licence, *(f"- {line}" for line in record.attribution)]),
    }
    if record.advice:
        sections["## Conservation on independent pairs"] = str(record.advice)
    if record.recipe:
        recipe = yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True).strip()
        sections["## Recipe"] = f"```yaml\n{recipe}\n```"
    return "\n\n".join(part for section in sections.items() for part in section if part) + "\n"


def _facts(spec: ModelSpec, record: Record, name: str, size: int) -> list[tuple[str, str]]:
    options = ", ".join(f"{key} {value}" for key, value in spec.options.items())
    laws, event, skill = ", ".join(sorted(spec.laws)), [], record.skill
    if spec.event is not None:
        rule = f"{spec.outputs[0].name} {spec.event.side} {spec.event.threshold:g} {spec.outputs[0].units}"
        event = [("event", f"{spec.event.name}: {rule}, a flag and its probability")]
    seconds = f"{float(skill.get('seconds', 0)):.0f} s; best at step {skill.get('step')}"
    return [
        ("file", f"{name}, {size / 1e6:.2f} MB"),
        ("network", spec.network + (f" ({options})" if options else "")),
        ("factor", f"{spec.factor[0]} x {spec.factor[1]}"),
        ("law", f"{laws} by construction ({spec.constraint})" if laws else "none"),
        *event,
        ("kernel beneath", f"Sobolev, {spec.taps} taps, order {spec.order:g}"),
        ("statics", ", ".join(spec.statics) or "none"),
        ("encodings", ", ".join(spec.encodings) or "none"),
        ("trained", f"{skill['steps']} steps in {seconds}" if "steps" in skill else "not recorded"),
        ("data", record.data_hash or "not recorded"),
        ("made with", ", ".join(f"{key} {value}" for key, value in record.versions.items()) or "not recorded"),
    ]


def _bounds(variable: Variable) -> str:
    low, high = ("" if bound is None else f"{bound:g}" for bound in variable.bounds)
    return f"{low} to {high}".strip() if low or high else "none"


def _transform(variable: Variable) -> str:
    if variable.transform == "local":
        return "by the mean magnitude around (free of units)"
    inner = f"log1p(x / {variable.scale:.4g})" if variable.transform == "log1p" else "x"
    return f"({inner} - {variable.mean:.4g}) / {variable.std:.4g}"


def _skill(record: Record) -> str:
    rows = record.skill.get("by_source") or []
    if not rows:
        return "Not recorded."
    lines = [
        (str(row["source"]) + (SEEN if row.get("seen") else ""), str(row["variable"]),
         _quantity(row["rmse"], row["units"]), _quantity(row["rmse_kernel"], row["units"]),
         "-" if row["skill"] is None else f"{row['skill']:.3f}")
        for row in rows
    ]  # fmt: skip
    measures = rows[0].get("measure", "RMSE"), rows[0].get("measure_kernel", "RMSE")
    head = ("source", "variable", measures[0], f"{measures[1]} of the kernel", "ratio")
    text = (
        "On times held out of training, by area; the kernel is Sobolev with cell conservation, and with the bounds of "
        "the variable where it has any. A ratio below one means that the network improves on the kernel."
    )
    if any(row.get("seen") for row in rows):
        text += f" Rows marked{SEEN} are no test: other pairs of the recipe trained on those times."
    return f"{text}\n\n{_table(head, lines)}"


def _quantity(value: float, units: str) -> str:
    return f"{value:.4g}" if units == "1" else f"{value:.4g} {units}"


def _sources(record: Record) -> str:
    rows = []
    for source in record.sources:
        axes = source.get("fine_axes") or []
        steps = " x ".join(f"{axis['step']:.4g}" for axis in axes)
        unit = "degrees" if axes and axes[0]["kind"] == "latitude" else "m"
        shape, dates = " x ".join(map(str, source.get("fine_shape", []))), " to ".join(source.get("dates", []))
        maps = f"{source.get('train_maps')} / {source.get('validation_maps')}"
        rows.append((str(source.get("label")), shape, f"{steps} {unit}" if steps else "-", dates or "-", maps))
    head = ("source", "fine cells", "size of a cell", "dates", "maps: train / validate")
    return _table(head, rows) if rows else "Not recorded."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


@dataclass(frozen=True)
class Mismatch:
    """Differences between the coarse values of one variable and the block means of the reference field."""

    label: str  # of the source
    variable: str
    units: str
    bias: float  # mean of coarse value minus mean of the reference
    rmse: float  # root mean square of the difference
    spread: float  # standard deviation of the means of the reference
    correlation: float  # correlation of coarse values and means of the reference
    # Least root-mean-square error of any fine field with conservation "cell", "total" or "none".
    floor: dict[str, float]
    # Error of the kernel for each kind of conservation, on maps held out from the fit of the linear correction. The
    # correction applies where conservation allows it. "average" is the error with exact block means as coarse values.
    cost: dict[str, float]
    maps: int  # number of maps measured

    def to_text(self) -> str:
        """Return the result as three lines of text."""
        units, cost = self.units, self.cost
        loss = cost["cell"] / cost["none"] - 1 if cost["none"] > 0 else 0.0
        costs = ", ".join(
            f"{name!r} {cost[name]:.4g} {units} (never below {self.floor[name]:.3g})" for name in LAWS[:2]
        )
        if loss <= SLIGHT:
            advice = "conserving the coarse cells has no measurable cost here"
        else:
            advice = (
                f"conserving the coarse cells costs {100 * loss:.0f} % of the error against this truth; set "
                "conserve: null if accuracy matters more than the budget of the coarse field"
            )
        return (
            f"{self.label}: {self.variable}: coarse values differ from the averages of the truth by {self.rmse:.4g} "
            f"{units} (mean {self.bias:+.3g}, correlation {self.correlation:.3f}, spread of the averages "
            f"{self.spread:.4g}; {self.maps} maps)\n"
            f"  error of the kernel by law: {costs}, none {cost['none']:.4g} {units} after a linear "
            f"correction; {cost['average']:.4g} {units} if the coarse values were the averages\n"
            f"  {advice}"
        )


def advise(sources: Sequence[Source], splits: Sequence[Split], spec: ModelSpec) -> str:
    """Return advice on conservation for these sources, one paragraph per output."""
    lines = []
    for source, split in zip(sources, splits, strict=True):
        if source.coarse is None:
            continue
        lines += [mismatch.to_text() for mismatch in measure(source, split, spec)]
    if not lines:
        return "the coarse fields are averages of the truth: cell conservation costs nothing"
    return "\n".join(lines)


def measure(source: Source, split: Split, spec: ModelSpec) -> list[Mismatch]:
    """Measure each output of a source on its training maps (validation maps where it has none)."""
    numbers = source.maps_of(split.train if split.train.size else split.validation)
    maps = [_read_maps(source, int(number)) for number in pick_evenly(numbers, MOST_MAPS)]
    truth, means, coarse = (np.stack(fields, axis=1) for fields in zip(*maps, strict=True))
    return [_measure_output(source, variable, truth[i], means[i], coarse[i]) for i, variable in enumerate(spec.outputs)]


def _read_maps(source: Source, number: int) -> tuple[Any, Floats, Floats]:
    """Return reference, its means, and coarse values of a map, shape (V, Y, X) or (V, y, x)."""
    truth, means = read_truth(source, number)
    coarse = read_coarse(source, number, means)
    valid = np.isfinite(means) & np.isfinite(coarse)
    return truth.astype(np.float32), np.where(valid, means, np.nan), np.where(valid, coarse, np.nan)


def _measure_output(source: Source, variable: Variable, truth: Any, means: Floats, coarse: Floats) -> Mismatch:
    area, half = source.grid.cell_area, len(truth) // 2
    # The earlier half of the maps fits the linear correction, the later half shows the costs.
    slope, offset, _ = _regress(coarse[: half or None], means[: half or None], area)
    corrected = np.clip(offset + slope * coarse, *_limits(variable))
    shift = np.array([_mean(values, area) for values in coarse - corrected])[:, None, None]
    inputs = {"cell": coarse, "total": corrected + shift, "none": corrected, "average": means}
    cost = {}
    for name, values in inputs.items():
        squares = Moments()
        for number in range(half, len(truth)):
            squares.add((_kernel(source, values[number], variable) - truth[number]) ** 2, source.fine.cell_area)
        cost[name] = float(np.sqrt(squares.mean))
    difference = coarse - means
    rmse = float(np.sqrt(_mean(difference**2, area)))
    total = float(np.sqrt(np.mean([_mean(values, area) ** 2 for values in difference])))
    spread = float(np.sqrt(_mean((means - _mean(means, area)) ** 2, area)))
    return Mismatch(
        source.label, variable.name, variable.units, _mean(difference, area), rmse, spread,
        _regress(coarse, means, area)[2],
        {"cell": rmse, "total": total, "none": 0.0}, cost, len(truth),
    )  # fmt: skip


def _kernel(source: Source, coarse: Floats, variable: Variable) -> Floats:
    """Return the kernel's fine field with the cell means of ``coarse``, and within the bounds where feasible."""
    import torch

    x = torch.from_numpy(coarse)
    proposal = source.operator(x)
    cells, (low, high) = source.cells.apply_mask(torch.isfinite(proposal)), _limits(variable)
    feasible = bool(((x >= low) & (x <= high) | torch.isnan(x)).all())
    if variable.bounds != (None, None) and feasible:
        return np.asarray(bounded(proposal, x, cells, variable.bounds).numpy())
    return np.asarray(additive(proposal, x, cells).numpy())


def _limits(variable: Variable) -> tuple[float, float]:
    low, high = variable.bounds
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def _mean(values: Floats, area: Any) -> float:
    """Return the area-weighted mean of finite values, zero where all are missing."""
    moments = Moments()
    moments.add(values, area)
    return moments.mean


def _regress(x: Floats, y: Floats, area: Any) -> tuple[float, float, float]:
    """Return slope, offset and correlation of the area-weighted regression of y on x; the identity for constant x."""
    mean_x, mean_y = _mean(x, area), _mean(y, area)
    dx, dy = x - mean_x, y - mean_y
    variance, covariance, scale = _mean(dx**2, area), _mean(dx * dy, area), _mean(dy**2, area)
    if not variance > 0:
        return 1.0, 0.0, float("nan")
    slope = covariance / variance
    return slope, mean_y - slope * mean_x, covariance / np.sqrt(variance * scale) if scale > 0 else float("nan")
