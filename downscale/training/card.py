"""Model cards in markdown, and the cost of conservation on independent pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from downscale.fields.conserve import additive, bounded
from downscale.models.checkpoint import Record, load_record
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.pairs import Source, Split, evenly, read_coarse, read_truth
from downscale.training.statistics import Moments

# Marks scores on times that the training saw.
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
    sections = [
        f"# {record.title or name}",
        str(record.description).strip(),
        _table(("", ""), _facts(spec, record, name, size)),
        "## Variables",
        _table(("variable", "role", "units", "bounds", "transform"), _variables(spec)),
        "## Skill",
        _skill(record),
        "## Learned from",
        _sources(record),
        "## Licence and attribution",
        _licence(record),
        "## Conservation on independent pairs" if record.advice else "",
        str(record.advice),
        "## Recipe" if record.recipe else "",
        _recipe(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _facts(spec: ModelSpec, record: Record, name: str, size: int) -> list[tuple[str, str]]:
    options = ", ".join(f"{key} {value}" for key, value in spec.options.items())
    laws = ", ".join(sorted(spec.laws))
    return [
        ("file", f"{name}, {size / 1e6:.2f} MB"),
        ("network", spec.network + (f" ({options})" if options else "")),
        ("factor", f"{spec.factor[0]} x {spec.factor[1]}"),
        ("law", f"{laws} by construction ({spec.constraint})" if laws else "none"),
        *([] if spec.event is None else [("event", _event(spec, spec.event))]),
        ("kernel beneath", f"Sobolev, {spec.taps} taps, order {spec.order:g}"),
        ("statics", ", ".join(spec.statics) or "none"),
        ("encodings", ", ".join(spec.encodings) or "none"),
        ("trained", _trained(record)),
        ("data", record.data_hash or "not recorded"),
        ("made with", ", ".join(f"{key} {value}" for key, value in record.versions.items()) or "not recorded"),
    ]


def _event(spec: ModelSpec, event: Event) -> str:
    first = spec.outputs[0]
    return f"{event.name}: {first.name} {event.side} {event.threshold:g} {first.units}, a flag and its probability"


def _trained(record: Record) -> str:
    skill = record.skill
    if "steps" not in skill:
        return "not recorded"
    return f"{skill['steps']} steps in {float(skill.get('seconds', 0)):.0f} s; best at step {skill.get('step')}"


def _variables(spec: ModelSpec) -> list[tuple[str, ...]]:
    roles = [(variable, "in and out") for variable in spec.outputs]
    roles += [(v, "code" if v.name in spec.code_names else "predictor") for v in spec.predictors]
    return [(v.name, role, v.units, _bounds(v), _transform(v)) for v, role in roles]


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


def _licence(record: Record) -> str:
    lines = [f"Weights: {record.licence}." if record.licence else "Weights: no licence recorded."]
    lines += [f"- {line}" for line in record.attribution]
    return "\n".join(lines)


def _recipe(record: Record) -> str:
    if not record.recipe:
        return ""
    return f"```yaml\n{yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True).strip()}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


@dataclass
class Mismatch:
    """Differences between the coarse values of one variable and the block means of the reference field."""

    label: str  # of the source
    variable: str
    units: str
    difference: Moments = field(default_factory=Moments)  # moments of coarse value minus mean of the reference
    coarse: Moments = field(default_factory=Moments)  # moments of the block means of the reference
    correlation: float = float("nan")  # correlation of coarse values and means of the reference
    # Least root-mean-square error of any fine field with conservation "cell", "total" or "none".
    floor: dict[str, float] = field(default_factory=dict)
    # Error of the kernel for each kind of conservation, on maps held out from the fit of the linear correction. The
    # correction applies where conservation allows it. "average" is the error with exact block means as coarse values.
    cost: dict[str, float] = field(default_factory=dict)
    maps: int = 0  # number of maps measured

    @property
    def rmse(self) -> float:
        """Root mean square of the difference."""
        return float(np.hypot(self.difference.mean, self.difference.std))

    def to_text(self) -> str:
        """Return the result as three lines of text."""
        u, cost = self.units, self.cost
        loss = cost["cell"] / cost["none"] - 1 if cost["none"] > 0 else 0.0
        costs = ", ".join(f"{name!r} {cost[name]:.4g} {u} (never below {self.floor[name]:.3g})" for name in LAWS[:2])
        if loss <= SLIGHT:
            advice = "conserving the coarse cells has no measurable cost here"
        else:
            advice = (
                f"conserving the coarse cells costs {100 * loss:.0f} % of the error against this truth; set "
                "conserve: null if accuracy matters more than the budget of the coarse field"
            )
        return (
            f"{self.label}: {self.variable}: coarse values differ from the averages of the truth by {self.rmse:.4g} "
            f"{u} (mean {self.difference.mean:+.3g}, correlation {self.correlation:.3f}, spread of the averages "
            f"{self.coarse.std:.4g}; {self.maps} maps)\n"
            f"  error of the kernel by law: {costs}, none {cost['none']:.4g} {u} after a linear "
            f"correction; {cost['average']:.4g} {u} if the coarse values were the averages\n"
            f"  {advice}"
        )


def advise(sources: Sequence[Source], sides: Sequence[Split], spec: ModelSpec) -> str:
    """Return advice on conservation for these sources, one paragraph per output."""
    lines = []
    for source, side in zip(sources, sides, strict=True):
        if source.coarse is None:
            continue
        lines += [mismatch.to_text() for mismatch in measure(source, side, spec)]
    if not lines:
        return "the coarse fields are averages of the truth: cell conservation costs nothing"
    return "\n".join(lines)


def measure(source: Source, side: Split, spec: ModelSpec) -> list[Mismatch]:
    """Measure each output of a source on its training maps (validation maps where it has none)."""
    numbers = source.maps_of(side.train if side.train.size else side.validation)
    maps = [_Map.read(source, int(number)) for number in evenly(numbers, MOST_MAPS)]
    return [_measured(source, maps, i, variable) for i, variable in enumerate(spec.outputs)]


@dataclass(frozen=True, eq=False)
class _Map:
    truth: Floats
    means: Floats
    coarse: Floats

    @classmethod
    def read(cls, source: Source, number: int) -> _Map:
        truth, means = read_truth(source, number)
        coarse = read_coarse(source, number, means)
        valid = np.isfinite(means) & np.isfinite(coarse)
        return cls(truth.astype(np.float32), np.where(valid, means, np.nan), np.where(valid, coarse, np.nan))


def _measured(source: Source, maps: list[_Map], index: int, variable: Variable) -> Mismatch:
    area = source.grid.cell_area
    mismatch = Mismatch(source.label, variable.name, variable.units, maps=len(maps))
    x, m = (np.stack([getattr(item, word)[index] for item in maps]) for word in ("coarse", "means"))
    mismatch.difference.add(x - m, area)
    mismatch.coarse.add(m, area)
    mismatch.correlation = _correlation(x, m, area)
    shifts = Moments()
    for i in range(len(maps)):
        shifts.add(np.array(_total(x[i] - m[i], area)), np.array(1.0))
    mismatch.floor = {"cell": mismatch.rmse, "total": float(np.hypot(shifts.mean, shifts.std)), "none": 0.0}
    mismatch.cost = _costs(source, maps, index, variable)
    return mismatch


def _costs(source: Source, maps: list[_Map], index: int, variable: Variable) -> dict[str, float]:
    """Return the kernel's error for each law on the later half of the maps; the earlier half fits the correction."""
    area = source.grid.cell_area
    half = len(maps) // 2
    fit_maps, test_maps = (maps[:half], maps[half:]) if half else (maps, maps)
    x, m = (np.stack([getattr(item, word)[index] for item in fit_maps]) for word in ("coarse", "means"))
    slope, offset = _line(x, m, area)
    sums = {name: Moments() for name in (*LAWS, "average")}
    for test_map in test_maps:
        coarse = test_map.coarse[index]
        corrected = np.clip(offset + slope * coarse, *_limits(variable))
        shifted = corrected + _total(coarse - corrected, area)
        inputs = {"cell": coarse, "total": shifted, "none": corrected, "average": test_map.means[index]}
        for name, values in inputs.items():
            error = _kernel(source, values, variable) - test_map.truth[index]
            sums[name].add(error**2, source.fine.cell_area)
    return {name: float(np.sqrt(moments.mean)) for name, moments in sums.items()}


def _kernel(source: Source, coarse: Floats, variable: Variable) -> Floats:
    """Return the kernel's fine field with the cell means of ``coarse``, and within the bounds where feasible."""
    import torch

    x = torch.from_numpy(coarse)
    proposal = source.operator(x)
    mask = torch.isfinite(proposal)
    low, high = _limits(variable)
    feasible = bool(((x >= low) & (x <= high) | torch.isnan(x)).all())
    if variable.bounds != (None, None) and feasible:
        return np.asarray(bounded(proposal, x, source.cells.masked(mask), variable.bounds).numpy())
    return np.asarray(additive(proposal, x, source.cells.masked(mask)).numpy())


def _limits(variable: Variable) -> tuple[float, float]:
    low, high = variable.bounds
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def _total(values: Floats, area: Any) -> float:
    """Return the area-weighted mean of finite values, zero where all are missing."""
    valid = np.isfinite(values)
    weight = np.where(valid, area, 0.0).sum()
    return float((np.where(valid, values, 0.0) * area).sum() / weight) if weight > 0 else 0.0


def _line(x: Floats, y: Floats, area: Any) -> tuple[float, float]:
    """Return slope and offset of the area-weighted regression of y on x; the identity for constant x."""
    mean_x, mean_y = _mean(x, area), _mean(y, area)
    variance = _mean((x - mean_x) ** 2, area)
    if not variance > 0:
        return 1.0, 0.0
    slope = _mean((x - mean_x) * (y - mean_y), area) / variance
    return slope, mean_y - slope * mean_x


def _correlation(x: Floats, y: Floats, area: Any) -> float:
    dx, dy = x - _mean(x, area), y - _mean(y, area)
    scale = np.sqrt(_mean(dx**2, area) * _mean(dy**2, area))
    return _mean(dx * dy, area) / scale if scale > 0 else float("nan")


def _mean(values: Floats, area: Any) -> float:
    moments = Moments()
    moments.add(values, area)
    return moments.mean
