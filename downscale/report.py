"""The report of a run, for people (HTML, one self-contained file) and for programs (JSON)."""

from __future__ import annotations

import base64
import html
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.io.write import temporary_beside
from downscale.version import __version__

if TYPE_CHECKING:
    from downscale.pipeline import Outcome

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .5rem 0; } th, td { text-align: left; padding: .2rem .9rem .2rem 0; }
th { font-weight: 600; } td { font-variant-numeric: tabular-nums; } img { width: 100%; } p.note { color: #555; }
"""
# Numbers that are told of each of two methods, and what they are called; {} stands for the units of the field.
SIDES = {
    "cell_error": "largest relative error of a coarse cell",
    "detail": "detail added within coarse cells, {}",
    "per_km": "of it with relief, {} a km",
    "relief_correlation": "its correlation with relief",
    "gradient": "root-mean-square gradient, {} in 100 km",
    "coarser_rmse": "self-validation: RMSE, {}",
    "coarser_ratio": "self-validation: RMSE / bilinear",
    "seconds": "seconds",
}
LIBRARIES = ("numpy", "xarray", "dask", "torch", "netCDF4", "cartopy")


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


def facts_path(path: Path) -> Path:
    """Return the name of the facts that lie beside a report."""
    return path.with_suffix(".json")


def write_report(outcome: Outcome, path: Path, picture: Path | None = None, beside: Beside | None = None) -> None:
    """Write ``path`` (HTML) and beside it the same facts as JSON; both appear complete or not at all."""
    facts = report_facts(outcome)
    if beside is not None:
        facts["side_by_side"] = list(beside.sides)
    with temporary_beside(facts_path(path)) as scratch:
        scratch.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    with temporary_beside(path) as scratch:
        scratch.write_text(_page(outcome, facts, picture, beside), encoding="utf-8")


def report_facts(outcome: Outcome) -> dict[str, Any]:
    """Return everything that the report tells, as plain values."""
    return {
        "title": outcome.recipe.title,
        "description": outcome.recipe.description,
        "recipe": outcome.recipe.model_dump(by_alias=True),
        "plan": outcome.plan.to_dict(),
        "conservation": outcome.conservation.to_dict() if outcome.conservation is not None else None,
        "self_validation": outcome.self_validation,
        "terrain_penalty": outcome.terrain_penalty,
        "blocks": {"count": outcome.blocks, "kept": outcome.kept} if outcome.blocks else None,
        "seconds": round(outcome.seconds, 2),
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of this package and of what it stands on."""
    found = {"downscale": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _page(outcome: Outcome, facts: dict[str, Any], picture: Path | None, beside: Beside | None) -> str:
    parts = [f"<h1>{html.escape(outcome.recipe.title)}</h1>", f"<p>{html.escape(outcome.recipe.description)}</p>"]
    if picture is not None:
        parts.append(_image(picture))
    parts.append("" if beside is None else _side_by_side(beside))
    parts += [_conservation(outcome), _self_validation(outcome), _penalty(outcome)]
    parts.append(f"<h2>What was done</h2>{outcome.plan._repr_html_()}")
    parts.append(f"<p class='note'>{facts['seconds']} s; {_versions(facts['versions'])}</p>")
    title = html.escape(outcome.recipe.title)
    body = "\n".join(part for part in parts if part)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><body>{body}</body></html>\n"
    )


def _image(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    return f"<img alt='coarse field, fine field and added detail' src='data:image/png;base64,{data}'>"


def _side_by_side(beside: Beside) -> str:
    head, *rows = beside.rows()
    return (
        "<h2>Beside a trained network</h2>"
        + ("" if beside.picture is None else _image(beside.picture))
        + _table(head, rows)
        + "<p class='note'>There is no fine truth here, and more detail is not better detail: the numbers say how much "
        "each method adds and how closely that follows the relief. Self-validation predicts the coarse field from its "
        f"own coarsening. {html.escape(beside.note)}</p>"
    )


def _conservation(outcome: Outcome) -> str:
    if outcome.conservation is None:
        return "<h2>Conservation</h2><p>Not imposed, not checked.</p>"
    return (
        "<h2>Conservation, read back from the file as written</h2>"
        f"{outcome.conservation._repr_html_()}"
        "<p class='note'>Cell law: the fine field, averaged over any coarse cell with true areas and masks, is the "
        "coarse value.</p>"
    )


def _self_validation(outcome: Outcome) -> str:
    if not any(outcome.self_validation.values()):
        return (
            "<h2>Self-validation</h2><p>None: the target does not nest, the request is along another axis, or the "
            "field has fewer than three coarse blocks along an axis.</p>"
        )
    rows = []
    for name, errors in outcome.self_validation.items():
        reference = errors["bilinear"]
        for label, error in errors.items():
            ratio = f"{error / reference:.3f}" if reference else "-"
            rows.append((name, label, f"{error:.4g}", ratio))
    return (
        "<h2>Self-validation</h2><p>The coarse field predicted from its own coarsening by the same factor: the best "
        "indication, without fine truth, of what helps here.</p>"
        + _table(("variable", "method", "area-weighted RMSE", "RMSE / bilinear"), rows)
    )


def _penalty(outcome: Outcome) -> str:
    rows = [
        (name, f"{v['before']:.4g}", f"{v['after']:.4g}", f"{v['after'] / v['before']:.3f}" if v["before"] else "-")
        for name, v in outcome.terrain_penalty.items()
    ]
    if not rows:
        return ""
    return "<h2>Terrain-gradient penalty, (units per metre)&sup2;</h2>" + _table(
        ("variable", "before", "after", "after / before"), rows
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())
