"""Evaluation: every number of the tables against a plain oracle, the same whatever the blocks; faults in one line."""

from __future__ import annotations

import csv
import io
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import shared_data
from numpy.typing import NDArray
from training_recipes import data_block

import downscale
from downscale.errors import InputError, OptionError, OutputError
from downscale.evaluation.methods import Cost
from downscale.evaluation.run import evaluate
from downscale.evaluation.schema import Data, load_evaluation, parse_evaluation
from downscale.evaluation.table import to_csv, to_markdown
from downscale.evaluation.truth import open_truth
from downscale.fields.aggregate import Aggregation
from downscale.models.checkpoint import Record, save
from downscale.nn.learned import Learned
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.origin import describe_source
from downscale.training.pairs import open_source, split_times
from downscale.training.schema import Network, load_training

RECIPES = Path(__file__).parents[1] / "recipes"
SAMPLE: dict[str, Any] = {
    "fine": "sample:north_america", "label": "sample", "orog": "sample:north_america_relief", "orog_variable": "orog",
    "every": 5, "most": 3,
}  # fmt: skip
METHODS: list[Any] = ["block", "bilinear", "sobolev bounded", {"label": "lapse", "lapse_rate": -3e-3}]


def content(folder: Path, **more: Any) -> dict[str, Any]:
    """A recipe of a moment on the embedded sample, which is the truth here."""
    data = {"factor": 4, "outputs": [{"name": "tas", "units": "K"}], "sources": [dict(SAMPLE)]}
    output = {"folder": str(folder / "out"), "figures": None}
    return {"title": "A table", "data": data, "methods": list(METHODS), "output": output, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def scored(folder: Path) -> xr.Dataset:
    return evaluate(parse_evaluation(content(folder, wet=280.0)))


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float64]:
    """The maps that are judged: every fifth, three of them, cropped to whole coarse cells."""
    ds = downscale.sample.open("north_america", chunks=None)
    return ds.tas.values[0:15:5, :36, :48].astype(float)


def areas() -> NDArray[np.float64]:
    """Cells between parallels, whose area goes with the difference of sines."""
    ds = downscale.sample.open("north_america", chunks=None)
    edges = np.sin(np.deg2rad(ds.lat_bnds.values[:36]))
    return np.repeat(np.abs(edges[:, 1] - edges[:, 0])[:, None], 48, axis=1)


def blocks(fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each four by four cells by area, in each of them."""
    area, out = areas(), np.empty_like(fine)
    for y in range(0, fine.shape[1], 4):
        for x in range(0, fine.shape[2], 4):
            part = (slice(None), slice(y, y + 4), slice(x, x + 4))
            w = area[part[1:]]
            out[part] = ((fine[part] * w).sum(axis=(1, 2)) / w.sum())[:, None, None]
    return out


def weighted(values: NDArray[np.float64]) -> float:
    weight = np.broadcast_to(areas(), values.shape)
    return float((values * weight).sum() / weight.sum())


def test_errors_of_blocks_are_those_of_a_plain_loop(scored: xr.Dataset, truth: NDArray[np.float64]) -> None:
    made = blocks(truth)
    here = scored.sel(source="sample", upscaler="block")
    error = made - truth
    wanted = {
        "rmse": math.sqrt(weighted(error**2)), "mae": weighted(np.abs(error)), "crps": weighted(np.abs(error)),
        "wet_frequency": weighted(1.0 * (made >= 280)), "true_wet_frequency": weighted(1.0 * (truth >= 280)),
    }  # fmt: skip
    for name, value in wanted.items():
        assert float(here[f"tas_{name}"]) == pytest.approx(value, rel=1e-5), name
    assert abs(float(here.tas_bias)) < 1e-5
    left, right = made - weighted(made), truth - weighted(truth)
    correlation = weighted(left * right) / math.sqrt(weighted(left**2) * weighted(right**2))
    assert float(here.tas_correlation) == pytest.approx(correlation, rel=1e-6)
    order = np.argsort(truth, axis=None)
    share = np.cumsum(np.broadcast_to(areas(), truth.shape).ravel()[order])
    median = truth.ravel()[order][np.searchsorted(share, 0.5 * share[-1])]
    assert float(scored.tas_true_quantile.sel(source="sample", level=0.5)) == pytest.approx(median, rel=1e-4)


def test_each_method_is_the_public_function_with_its_arguments(scored: xr.Dataset) -> None:
    ds = downscale.sample.open("north_america", chunks=None).isel(time=slice(0, 15, 5), lat=slice(36), lon=slice(48))
    coarse = downscale.coarsen(ds, 4)
    relief = downscale.sample.open("north_america_relief")[["orog"]]
    ways: dict[str, dict[str, Any]] = {
        "bilinear": {"method": "bilinear", "conserve": None}, "sobolev bounded": {},
        "lapse": {"orog": relief, "lapse_rate": -3e-3, "relief_smoothing": 0},
    }  # fmt: skip
    for label, how in ways.items():
        error = downscale.downscale(coarse, 4, **how).tas.values.astype(float) - ds.tas.values
        wanted = math.sqrt(weighted(error**2))
        assert float(scored.tas_rmse.sel(source="sample", upscaler=label)) == pytest.approx(wanted, rel=1e-9)


def test_ratios_are_to_the_reference(scored: xr.Dataset) -> None:
    errors = scored.tas_rmse.sel(source="sample")
    below = errors.sel(upscaler="sobolev bounded")
    np.testing.assert_allclose(scored.tas_rmse_ratio.sel(source="sample"), errors / below)
    assert scored.attrs["reference_method"] == "sobolev bounded"
    assert float(errors.sel(upscaler="lapse")) < float(errors.sel(upscaler="sobolev bounded"))
    assert float(errors.sel(upscaler="sobolev bounded")) < float(errors.sel(upscaler="bilinear"))


def test_the_law_is_judged_method_by_method(scored: xr.Dataset) -> None:
    here = scored.sel(source="sample")
    for label in ("block", "sobolev bounded", "lapse"):
        assert float(here.tas_cell_error.sel(upscaler=label)) <= 1e-6
    assert float(here.tas_cell_error.sel(upscaler="bilinear")) > 1e-3
    assert (here.tas_out_of_bounds == 0).all()
    assert (here.tas_seconds > 0).all()


def test_any_blocks_give_the_same_scores(folder: Path, scored: xr.Dataset) -> None:
    one = evaluate(parse_evaluation(content(folder, wet=280.0, most_cells=1)))
    for name in (n for n in scored.data_vars if not str(n).startswith(("tas_seconds", "tas_memory"))):
        np.testing.assert_allclose(one[name], scored[name], rtol=1e-9, atol=1e-12, err_msg=str(name))


def test_three_tables_tell_the_same(folder: Path, scored: xr.Dataset) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(scored))))
    assert [row["method"] for row in rows] == ["block", "bilinear", "sobolev bounded", "lapse"]
    for row in rows:
        here = scored.sel(source=row["source"], upscaler=row["method"])
        assert float(row["rmse"]) == float(here.tas_rmse)
        assert float(row["rmse_ratio"]) == float(here.tas_rmse_ratio)
        assert row["units"] == "K"
    text = to_markdown(scored)
    line = next(line for line in text.splitlines() if line.startswith("| lapse"))
    rmse = scored.sel(source="sample", upscaler="lapse")
    assert f"{float(rmse.tas_rmse):.4g} ({float(rmse.tas_rmse_ratio):.3f})" in line
    assert "## tas, sample" in text
    truth_line = next(line for line in text.splitlines() if line.startswith("| truth"))
    assert f"{float(rmse.tas_true_wet_frequency):.4g}" in truth_line
    assert (folder / "out" / "scores.md").read_text().startswith("# A table")
    with xr.open_dataset(folder / "out" / "scores.nc") as stored:
        assert stored.attrs["Conventions"] == "CF-1.11"
        assert stored.tas_gradient_rmse.attrs["units"] == "K m-1"
        assert stored.tas_rmse.dims == ("source", "upscaler")


def test_sources_are_summed_up_by_geometric_means(folder: Path) -> None:
    recipe = content(folder, methods=["block", "bilinear"], reference="block")
    recipe["data"]["sources"] = [{**SAMPLE, "label": "a", "most": 1}, {**SAMPLE, "label": "b", "average": 2, "most": 1}]
    made = evaluate(parse_evaluation(recipe))
    mean = math.sqrt(float(np.prod(made.tas_rmse_ratio.sel(upscaler="bilinear"))))
    assert f"| bilinear | {mean:.3f}" in to_markdown(made).split("all sources")[1]
    assert made.tas_wavenumber.isnull().any()  # the coarser source has fewer rings


# The truth


def data_of(**more: Any) -> Data:
    return Data.model_validate({"factor": 4, "outputs": ["tas"], "sources": [{**SAMPLE, **more}]})


def test_only_times_that_are_held_out_count() -> None:
    data = data_of(use="split", every=1, most=None)
    kept = open_truth(data.sources[0], data)
    whole = downscale.sample.open("north_america").sizes["time"]
    assert kept.steps == round(0.2 * whole)
    data = data_of(every=1, most=None)
    assert open_truth(data.sources[0], data).steps == whole


def test_units_names_and_averages_are_those_of_the_recipe() -> None:
    data = Data.model_validate(
        {"factor": 2, "outputs": [{"name": "t", "units": "degC"}],
         "sources": [{"fine": SAMPLE["fine"], "names": {"t": "tas"}, "average": 2, "most": 1}]}
    )  # fmt: skip
    found = open_truth(data.sources[0], data)
    block = found.block(0, 1)
    assert block.fine.t.attrs["units"] == "degC"
    assert block.fine.t.shape == (1, 18, 24)
    assert block.coarse.t.shape == (1, 9, 12)
    ds = downscale.coarsen(downscale.sample.open("north_america").isel(time=[0], lat=slice(36), lon=slice(48)), 2)
    np.testing.assert_allclose(block.fine.t, ds.tas - 273.15, atol=1e-4)


def test_an_independent_model_gives_the_coarse_maps(tmp_path: Path) -> None:
    ds = downscale.sample.open("north_america", chunks=None).isel(time=slice(4), lat=slice(36), lon=slice(48))
    other = downscale.coarsen(ds, 4)
    (other + 1.0).to_netcdf(tmp_path / "coarse.nc")
    data = data_of(coarse=str(tmp_path / "coarse.nc"), every=1, most=None)
    found = open_truth(data.sources[0], data)
    assert found.steps == 4
    np.testing.assert_allclose(found.block(1, 3).coarse.tas, other.tas[1:3] + 1.0, rtol=1e-6)


# Learned methods


def checkpoint(path: Path, **more: Any) -> Path:
    variable = Variable("tas", "K", mean=280.0, std=10.0)
    spec = ModelSpec("residual", (4, 4), (variable,), options={"width": 4, "depth": 1}, **more)
    save(path, Learned(spec), Record())
    return path


def test_a_method_without_a_law_is_scored_beside_bounded_ones(tmp_path: Path) -> None:
    """Bounds go with the cell law; what leaves it out leaves them out, and its score tells."""
    recipe = content(tmp_path, methods=["sobolev bounded", {"label": "free", "method": "bicubic", "conserve": None}])
    recipe["data"]["outputs"] = [{"name": "tas", "units": "K", "bounds": [0, 300]}]
    made = evaluate(parse_evaluation(recipe))
    errors = made.tas_cell_error.sel(source="sample")
    assert float(errors.sel(upscaler="sobolev bounded")) < 1e-6 < float(errors.sel(upscaler="free"))


def test_an_untrained_checkpoint_scores_as_the_kernel(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "untrained.safetensors", statics=("relief",))
    made = evaluate(parse_evaluation(content(tmp_path, methods=["sobolev bounded", str(path)])))
    assert list(made.upscaler.values) == ["sobolev bounded", "untrained"]
    for name in ("rmse", "gradient_rmse", "extreme"):
        both = made[f"tas_{name}"].sel(source="sample").values
        assert both[0] == pytest.approx(both[1], rel=1e-5)


def test_a_checkpoint_that_does_not_fit_is_refused_with_its_label(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "other.safetensors", predictors=(Variable("psl", "Pa"),))
    with pytest.raises(InputError, match="other, sample: expected the predictor 'psl'"):
        evaluate(parse_evaluation(content(tmp_path, methods=[str(path)])))


def published(constraint: str, bounds: Any = (None, None)) -> tuple[Learned, torch.Tensor, Aggregation]:
    torch.manual_seed(0)
    variable = Variable("v", "1", mean=0.3, std=2.0, bounds=bounds)
    spec = ModelSpec("sr_cnn", (2, 2), (variable,), options={"width": 4, "depth": 1}, constraint=constraint, taps=1)
    model = Learned(spec).double()
    torch.nn.init.normal_(model.network.last[-1].weight)
    share = np.full(8, 0.5)
    return model, 0.5 + torch.rand(2, 1, 4, 4, dtype=torch.float64), Aggregation(share, share, 2, 2)


def field_of(model: Learned, x: torch.Tensor) -> torch.Tensor:
    """What the network alone makes: fine fields unseen."""
    scaled = torch.cat([(x - 0.3) / 2.0, torch.ones_like(x)], dim=1)
    return model.network(scaled, torch.empty(2, 0, 8, 8))


def four(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def test_with_one_tap_the_published_network_is_under_its_own_additive_layer() -> None:
    """y = z + x - mean z, with z the network's field alone: nothing of the kernel is left."""
    model, x, cells = published("additive")
    z = 2.0 * field_of(model, x)
    wanted = z + four(x - torch.nn.functional.avg_pool2d(z, 2))
    torch.testing.assert_close(model(x, four(x), cells), wanted, rtol=1e-10, atol=1e-12)


def test_with_one_tap_the_published_network_is_under_its_own_softmax_layer() -> None:
    """y = x exp z / mean exp z."""
    model, x, cells = published("softmax", (0.0, None))
    z = field_of(model, x)
    wanted = torch.exp(z) * four(x / torch.nn.functional.avg_pool2d(torch.exp(z), 2))
    torch.testing.assert_close(model(x, four(x), cells), wanted, rtol=1e-10, atol=1e-12)


def test_a_published_network_is_trained_on_the_way_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    (tmp_path / "train.yml").write_text(
        "data: {factor: 4, outputs: [tas], pairs: [{fine: 'sample:north_america'}]}\n"
        "patches: {size: 6}\n"
        "network: {name: sr_cnn, options: {width: 4, depth: 1}, constraint: additive, taps: 1}\n"
        "training: {steps: 4, round: 2, batch: 2, accelerator: cpu, devices: 1, logger: null}\n"
        "output: {path: unused.safetensors}\n"
    )
    methods = ["block", {"label": "a b", "train": str(tmp_path / "train.yml")}]
    recipe = parse_evaluation(content(tmp_path, methods=methods))
    made = evaluate(recipe)
    file = tmp_path / "out" / "a_b.safetensors"
    before = file.read_bytes()
    again = evaluate(recipe)
    assert file.read_bytes() == before
    assert not (tmp_path / "unused.safetensors").exists()
    assert float(made.tas_cell_error.sel(source="sample", upscaler="a b")) < 1e-6
    np.testing.assert_array_equal(again.tas_rmse, made.tas_rmse)


@pytest.mark.parametrize(("choice", "seen"), [({}, 1 / 3), ({"use": "split"}, 0.0), ({"every": 1, "most": 9}, 1.0)])
def test_rows_of_times_that_a_model_learned_from_are_marked(
    tmp_path: Path, choice: dict[str, Any], seen: float
) -> None:
    """By the record in the checkpoint, in all three tables; methods without training saw nothing."""
    recipe = content(tmp_path, methods=["block", str(tmp_path / "m.safetensors")])
    recipe["data"] |= {"sources": [{**SAMPLE, "every": 9, "most": None, **choice}], "validation": {"fraction": 0.6}}
    data = data_block({"fine": SAMPLE["fine"]}, validation={"fraction": 0.6})
    source = open_source(data.pairs[0], data, Network())
    sides = split_times(source.dates, source.sizes[0], data.validation, "split", "")
    variable = Variable("tas", "K", mean=280.0, std=10.0)
    spec = ModelSpec("residual", (4, 4), (variable,), options={"width": 4, "depth": 1})
    save(tmp_path / "m.safetensors", Learned(spec), Record(sources=[describe_source(source, sides)]))
    said: list[str] = []
    made = evaluate(parse_evaluation(recipe), said.append)
    assert made.seen_in_training.sel(source="sample").values.tolist() == pytest.approx([0.0, seen])
    marked = [line for line in to_markdown(made).splitlines() if "[seen in training]" in line and line[0] == "|"]
    assert [line.split(" [")[0] for line in marked] == (["| m"] if seen else [])
    assert any("seen in training" in line for line in said) == bool(seen)
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [float(row["seen_in_training"]) for row in rows] == pytest.approx([0.0, seen])


def test_a_late_refusal_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cubist"):
        evaluate(parse_evaluation(content(tmp_path, methods=["cubist"])))
    wanted = content(tmp_path, output={"folder": str(tmp_path / "out"), "figures": {"map": 7}})
    with pytest.raises(OptionError, match=r"figures\.map"):
        evaluate(parse_evaluation(wanted))
    assert not list(tmp_path.iterdir())


def test_a_change_is_laid_over_a_training_recipe(tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(
        "data: {factor: 4, outputs: [{name: tas}], pairs: [{fine: 'sample:north_america'}]}\n"
        "training: {steps: 4, max_time: 60}\n"
        "output: {path: unused.safetensors}\n"
    )
    change = {"network.options.width": 8, "training.max_time": None, "data.outputs.0.transform": "log1p"}
    made, plain = (load_training(tmp_path / "train.yml", how) for how in (change, None))
    assert made.network.options == {"width": 8}
    assert (made.training.steps, made.training.max_time) == (4, None)
    assert made.data.outputs[0].transform == "log1p"
    assert (plain.network.options, plain.training.max_time) == ({}, 60.0)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("network.optoins.width", r"train.yml: expected a key among .*received 'network.optoins'"),
        ("data.outputs.1.name", r"train.yml: expected the path of a key to change, .*nothing at '1'"),
        ("training.steps.more", r"train.yml: expected the path of a key to change, .*nothing at 'more'"),
    ],
)
def test_a_change_that_leads_nowhere_is_refused(path: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(
        "data: {factor: 4, outputs: [{name: tas}], pairs: [{fine: 'sample:north_america'}]}\n"
        "training: {steps: 4}\noutput: {path: unused.safetensors}\n"
    )
    with pytest.raises(OptionError, match=line):
        load_training(tmp_path / "train.yml", {path: 8})


# Cost, figures, command


def test_cost_adds_seconds_and_keeps_the_largest_memory() -> None:
    cost = Cost()
    for megabytes in (80, 1):
        with cost:
            np.ones(megabytes * 125_000).sum()
    assert cost.seconds > 0
    if math.isnan(cost.memory):
        pytest.skip("the system does not tell the peak of memory")
    assert 70e6 < cost.memory < 160e6


def test_figures_are_drawn(tmp_path: Path) -> None:
    recipe = content(tmp_path, methods=["bilinear", "sobolev bounded"])
    recipe["output"]["figures"] = {"methods": ["sobolev bounded"], "select": {"lat": [20.0, 50.0]}, "dpi": 40}
    said: list[str] = []
    evaluate(parse_evaluation(recipe), said.append)
    for name in ("scores_tas_sample_maps.png", "scores_tas_spectra.png"):
        assert (tmp_path / "out" / name).stat().st_size > 2000
        assert any(line.endswith(name) for line in said)


def test_spectra_have_a_line_for_each_method_and_the_truth(scored: xr.Dataset) -> None:
    from downscale.evaluation.figures import draw_spectra

    panel = draw_spectra(scored, "tas").axes[0]
    lines = {line.get_label(): line for line in panel.lines}
    assert list(lines) == ["truth", *METHODS[:3], "lapse"]
    np.testing.assert_allclose(lines["truth"].get_ydata(), scored.tas_true_power[0])
    np.testing.assert_allclose(lines["truth"].get_xdata(), 1e-3 / scored.tas_wavenumber[0])


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    import yaml
    from command import command

    (tmp_path / "r.yml").write_text(yaml.safe_dump(content(tmp_path, methods=["block", "sobolev bounded"])))
    said = command("evaluate", tmp_path / "r.yml", "--out", tmp_path / "there")
    assert said.status == 0, said.err
    assert "| sobolev bounded" in said.out
    assert (tmp_path / "there" / "scores.nc").exists()
    assert not (tmp_path / "out").exists()


def test_rain_has_none_below_zero_and_keeps_its_cells(tmp_path: Path) -> None:
    path = shared_data("precipitation_mch_20160711_1km_5min.nc")
    recipe = content(tmp_path, methods=["block", "bicubic", "sobolev", "sobolev bounded"], wet=0.1)
    recipe["data"]["outputs"] = [{"name": "precip", "units": "mm h-1", "bounds": [0, None]}]
    recipe["data"]["sources"] = [{"fine": str(path), "label": "radar", "most": 1}]
    here = evaluate(parse_evaluation(recipe)).sel(source="radar")
    assert (here.precip_out_of_bounds.sel(upscaler=["block", "sobolev bounded"]) == 0).all()
    assert (here.precip_out_of_bounds.sel(upscaler=["bicubic", "sobolev"]) > 0).all()
    assert (here.precip_cell_error.sel(upscaler=["block", "sobolev", "sobolev bounded"]) < 1e-6).all()
    assert float(here.precip_rmse.sel(upscaler="sobolev bounded")) == float(here.precip_rmse.min())
    assert (here.precip_missing == 0).all()


# Recipes


WHOLE: dict[str, Any] = {
    "data": {"factor": 4, "outputs": ["tas"], "sources": [{"fine": "a.nc"}]}, "methods": ["block", "sobolev bounded"],
}  # fmt: skip
FAULTS: dict[str, tuple[str, Any, str]] = {
    "unknown": ("metods", [], "expected a key among 'title', .*received 'metods'; did you mean 'methods'"),
    "in-a-source": ("data.sources.0.lable", "x", "received 'data.sources.0.lable'; did you mean 'label'"),
    "in-a-method": ("methods.0", {"label": "a", "lapse": 1}, "received 'methods.0.lapse'"),
    "both": ("methods.0", {"label": "a", "train": "t.yml", "method": "x"}, "expected either method or train"),
    "change": ("methods.0", {"label": "a", "change": {"steps": 1}}, "expected change with train only"),
    "score": ("scores", ["rsme"], "key 'scores': expected names among 'rmse', .*received \\['rsme'\\]"),
    "twice": ("methods", ["block", "block"], "expected labels that differ, and 'block' is there twice"),
    "sources": ("data.sources", [{"fine": "a.nc"}, {"fine": "b/a.nc"}], "labels that differ, and 'a' is there twice"),
    "reference": ("reference", "best", "expected labels among 'block', 'sobolev bounded', not 'best'"),
    "figures": ("output", {"figures": {"methods": ["x"]}}, "not 'x', for reference and figures.methods"),
    "level": ("extreme", 1.5, "key 'extreme': expected less than 1, received 1.5"),
    "none": ("methods", [], "key 'methods'"),
    "name": ("output", {"name": "a/b"}, "key 'output.name': expected the beginning of file names"),
}


@pytest.mark.parametrize(("path", "value", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_with_the_path_of_the_key(path: str, value: Any, line: str) -> None:
    made = deepcopy(WHOLE)
    *blocks_, last = path.split(".")
    place: Any = made
    for block in blocks_:
        place = place[int(block)] if block.isdigit() else place.setdefault(block, {})
    place[int(last) if last.isdigit() else last] = value
    with pytest.raises(OptionError, match=line) as caught:
        parse_evaluation(made, "r.yml")
    assert str(caught.value).startswith("r.yml: ")
    assert "\n" not in str(caught.value)


def test_faults_of_data_and_methods_are_one_line(tmp_path: Path) -> None:
    def attempt(**more: Any) -> None:
        evaluate(parse_evaluation(content(tmp_path, **more)))

    with pytest.raises(OptionError, match="cubist: expected method to be one of 'sobolev'"):
        attempt(methods=["cubist"])
    with pytest.raises(InputError, match=r"gone: expected .*gone\.safetensors"):
        attempt(methods=[str(tmp_path / "gone.safetensors")])
    with pytest.raises(InputError, match=r"tas_day\.nc"):
        attempt(data={**content(tmp_path)["data"], "sources": [{"fine": "tas_day.nc"}]})
    with pytest.raises(InputError, match="expected a variable among 'tas', received 'pr'; set its name in names"):
        attempt(data={**content(tmp_path)["data"], "outputs": ["pr"]})
    with pytest.raises(OptionError, match=r"north_america: expected 'tas' in 'mm' or units that fit, received 'K'"):
        attempt(data={**content(tmp_path)["data"], "outputs": [{"name": "tas", "units": "mm"}]})
    span = {"span": ["2200-01-01", "2201-01-01"]}
    with pytest.raises(InputError, match="expected times that are held out, received none of 24"):
        attempt(data={**content(tmp_path)["data"], "sources": [{**SAMPLE, "use": "split"}], "validation": span})
    with pytest.raises(OptionError, match=r"sample: expected figures\.map below 3, received 7"):
        attempt(methods=["block"], output={"folder": str(tmp_path / "f"), "figures": {"map": 7}})


def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for where, line in ((tmp_path / "no" / "out", "existing parent folder"), (tmp_path / "file", "received the file")):
        with pytest.raises(OutputError, match=line):
            evaluate(parse_evaluation(content(tmp_path, output={"folder": str(where)})))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.md").write_text("mine")
    with pytest.raises(OutputError, match=r"scores\.md"):
        evaluate(parse_evaluation(content(tmp_path, output={"folder": str(tmp_path / "out"), "overwrite": False})))
    assert (tmp_path / "out" / "scores.md").read_text() == "mine"
    (tmp_path / "out" / "scores.md").rename(tmp_path / "out" / "scores_tas_sample_maps.png")
    with pytest.raises(OutputError, match=r"scores_tas_sample_maps\.png"):
        evaluate(parse_evaluation(content(tmp_path, output={"folder": str(tmp_path / "out"), "overwrite": False})))


def test_no_training_begins_while_another_method_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / "t.yml").write_text("data: {factor: 4, outputs: [tas], pairs: [{fine: x.nc}]}\noutput: {path: m}\n")
    training = {"label": "a", "train": str(tmp_path / "t.yml")}
    with pytest.raises(InputError, match=r"expected an existing recipe file, received .*none\.yml"):
        evaluate(parse_evaluation(content(tmp_path, methods=[training, {"label": "b", "train": "none.yml"}])))
    with pytest.raises(OptionError, match="cubist: expected method"):
        evaluate(parse_evaluation(content(tmp_path, methods=[training, "cubist"])))
    with pytest.raises(OptionError, match=r"a: expected training\.steps or training\.max_time, received neither"):
        evaluate(parse_evaluation(content(tmp_path, methods=[training])))


def test_the_ablation_changes_one_thing_at_a_time() -> None:
    recipe = load_evaluation(RECIPES / "ablation_rain.yml")
    first, *others = [each for each in recipe.methods if each.change]
    seen = set()
    for each in others:
        assert each.train is not None
        load_training(RECIPES.parent / each.train, each.change)
        different = {key for key in {*first.change, *each.change} if first.change.get(key) != each.change.get(key)}
        if each.train == first.train:
            assert len(different) == 1
            seen |= different
    assert {"network.options.upsampling", "network.taps", "network.constraint", "data.outputs.0.transform"} <= seen


@pytest.mark.parametrize("path", sorted(RECIPES.glob("evaluate_*.yml")), ids=lambda path: path.name)
def test_the_recipes_of_the_repository_are_legal(path: Path) -> None:
    recipe = load_evaluation(path)
    assert len(recipe.methods) >= (7 if any(method.train for method in recipe.methods) else 4)
    for method in recipe.methods:
        if method.train is not None:
            ours = load_training(RECIPES / f"train_{path.stem.removeprefix('evaluate_')}.yml")
            theirs = load_training(RECIPES.parent / method.train)
            assert theirs.data.pairs == ours.data.pairs
            assert theirs.data.validation == ours.data.validation
            assert theirs.patches == ours.patches
            assert theirs.training.max_time == ours.training.max_time
            assert theirs.training.clock == ours.training.clock == "cpu"


def test_the_mask_of_an_event_is_scored_beside_fields(tmp_path: Path) -> None:
    spec = ModelSpec("unet", (4, 4), (Variable("tas", "K"),), constraint="none", event=Event("heat", 295.0),
                     options={"width": 4, "levels": 1})  # fmt: skip
    save(tmp_path / "heat.safetensors", Learned(spec), Record(conserve=None))
    event = {"name": "heat", "above": 295.0, "units": "kelvin"}
    methods = [{"label": "sobolev", "bounded": False}, {"label": "mask", "method": str(tmp_path / "heat.safetensors")}]
    wanted = content(tmp_path, methods=methods, event=event, reference="sobolev")
    wanted["output"] = {"folder": str(tmp_path / "out")}
    made = evaluate(parse_evaluation(wanted)).isel(source=0)
    sobolev = made.sel(upscaler="sobolev")
    # An untrained model of the event says what the kernel's own field says, and claims no field and no law.
    for score in ("csi", "recall", "precision", "f2", "frequency_bias", "base_rate"):
        both = made[f"tas_event_{score}"].values
        assert both[1] == pytest.approx(both[0])
    assert 0.3 < float(sobolev.tas_event_csi) < 1
    assert np.isnan(made.sel(upscaler="mask")[["tas_rmse", "tas_cell_error"]].to_array()).all()
    assert float(made.tas_event_share.sel(upscaler="mask").sum()) == pytest.approx(1)
    text = (tmp_path / "out" / "scores.md").read_text()
    assert "### heat: tas above 295 kelvin, sample" in text
    assert (tmp_path / "out" / "scores_tas_skill.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "scores_heat_sample_maps.png").stat().st_size > 10_000
    with pytest.raises(OptionError, match="mask, sample: expected a field, received the mask of an event"):
        evaluate(parse_evaluation({**wanted, "event": None}))
    with pytest.raises(OptionError, match="expected the threshold of 'heat' in 'K' as 'tas' is, received 'mm'"):
        evaluate(parse_evaluation({**wanted, "event": {**event, "units": "mm"}}))
