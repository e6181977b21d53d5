"""Model cards in markdown: purpose, data, skill and licence of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from downscale.models.checkpoint import Record, load_record
from downscale.nn.spec import Event, ModelSpec, Variable

# Marks scores on times that the training saw.
SEEN = " [seen in training]"


def card(path: str | Path) -> str:
    """Return the card of a checkpoint as markdown.

    Raises
    ------
    InputError
        If the file is not a model, or truncated.
    """
    spec, record = load_record(path)
    return card_text(spec, record, Path(path).name, Path(path).expanduser().stat().st_size)


def card_text(spec: ModelSpec, record: Record, name: str, size: int) -> str:
    """Return the card of a model.

    Parameters
    ----------
    spec : ModelSpec
        Specification of the model.
    record : Record
        Record of its training.
    name : str
        Name of its file.
    size : int
        Size of its file in bytes.
    """
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
    made = [
        (str(row["source"]) + (SEEN if row.get("seen") else ""), str(row["variable"]),
         _quantity(row["rmse"], row["units"]), _quantity(row["rmse_kernel"], row["units"]),
         "-" if row["skill"] is None else f"{row['skill']:.3f}")
        for row in rows
    ]  # fmt: skip
    measures = rows[0].get("measure", "RMSE"), rows[0].get("measure_kernel", "RMSE")
    head = ("source", "variable", measures[0], f"{measures[1]} of the kernel", "ratio")
    told = (
        "On times held out of training, by area; the kernel is Sobolev with cell conservation, and with the bounds of "
        "the variable where it has any. A ratio below one means that the network improves on the kernel."
    )
    if any(row.get("seen") for row in rows):
        told += f" Rows marked{SEEN} are no test: other pairs of the recipe trained on those times."
    return f"{told}\n\n{_table(head, made)}"


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
