"""Figures of errors, spectra, parts and ranks: what is drawn is what was measured; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import downscale
from downscale import plot
from downscale.errors import GridError, InputError, OptionError, OutputError


@pytest.fixture(scope="module")
def pair() -> tuple[xr.Dataset, xr.Dataset]:
    coarse = downscale.sample.open("north_america").isel(time=[0, -1])
    return coarse, coarse.downscale(4)


def leaky(pair: tuple[xr.Dataset, xr.Dataset], size: float = 1e-4) -> xr.Dataset:
    """The fine field with one coarse cell wrong by a relative error of ``size``."""
    fine = pair[1].copy(deep=True)
    fine.tas[1, 40:44, 80:84] *= 1 + size
    return fine


def test_the_error_of_every_cell_has_the_maximum_of_the_report(pair: Any) -> None:
    for fine in (pair[1], leaky(pair), pair[0].downscale(4, method="bilinear", conserve=None)):
        found = downscale.cell_error(pair[0], fine).tas_relative_error
        report = downscale.check_conservation(pair[0], fine)["tas"]
        assert float(found.max()) == pytest.approx(report.max_relative_error, rel=1e-9)
        place = found[np.unravel_index(int(found.values.argmax()), found.shape)]
        assert float(place.lat) == pytest.approx(report.where_relative["lat"])
        assert float(place.lon) == pytest.approx(report.where_relative["lon"])


def test_a_planted_leak_is_where_it_was_planted(pair: Any) -> None:
    found = downscale.cell_error(pair[0], leaky(pair)).tas_error
    assert np.unravel_index(int(np.abs(found.values).argmax()), found.shape) == (1, 10, 20)
    assert float(found[1, 10, 20]) == pytest.approx(1e-4 * float(pair[0].tas[1, 10, 20]), rel=1e-3)
    assert found.units == "K"


def test_sums_over_cells_are_added_up_not_averaged(pair: Any) -> None:
    coarse = pair[0].copy(deep=True)
    coarse.tas.attrs["cell_methods"] = "area: sum"
    fine = coarse.downscale(4)
    report = downscale.check_conservation(coarse, fine)["tas"]
    found = downscale.cell_error(coarse, fine).tas_relative_error
    assert float(found.max()) == pytest.approx(report.max_relative_error, rel=1e-6, abs=1e-12)


def test_missing_and_masked_cells_have_no_error(pair: Any) -> None:
    coarse = pair[0].copy(deep=True)
    coarse.tas[:, 5, 7] = np.nan
    fine = coarse.downscale(4)
    found = downscale.cell_error(coarse, fine).tas_relative_error
    assert np.isnan(found[:, 5, 7]).all()
    assert int(found.isnull().sum()) == 2
    land = downscale.sample.open("north_america_relief").sftlf
    masked = coarse.downscale(4, mask=land)
    hidden = downscale.cell_error(coarse, masked, mask=land).tas_relative_error
    assert 100 < int(hidden.isnull().sum()) < hidden.size
    assert float(hidden.max()) < 1e-6


def test_errors_of_cells_need_grids_that_nest(pair: Any) -> None:
    other = pair[0].downscale(target_grid="0.7x0.7")
    with pytest.raises(GridError, match="parts of coarse ones, received grids that do not nest; use check"):
        downscale.cell_error(pair[0], other)


def test_the_conservation_map_rings_the_worst_cell_and_counts_all(pair: Any, tmp_path: Path) -> None:
    figure = plot.conservation(pair[0], leaky(pair), path=tmp_path / "map.png")
    panel, bar, chart = figure.axes
    rings = [line for line in panel.lines if line.get_marker() == "o"]
    where = panel.projection.transform_point(float(pair[0].lon[20]), float(pair[0].lat[10]), _geodetic())
    for ring in rings:
        assert np.allclose([ring.get_xdata()[0], ring.get_ydata()[0]], where, atol=1.0)
    assert len(rings) == 2
    assert sum(bar.get_height() for bar in chart.patches) == pair[0].tas.size
    assert "largest relative error" in bar.get_xlabel()
    assert (tmp_path / "map.png").stat().st_size > 20_000


def _geodetic() -> Any:
    import cartopy.crs as ccrs

    return ccrs.PlateCarree()


def test_an_exact_field_has_a_conservation_map_too(pair: Any) -> None:
    coarse = xr.zeros_like(pair[0])
    figure = plot.conservation(coarse, coarse.downscale(2))
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    figure.canvas.draw()


def test_one_of_several_variables_is_named(pair: Any) -> None:
    coarse = pair[0].assign(other=pair[0].tas * 2)
    fine = coarse.downscale(2)
    with pytest.raises(InputError, match="name of a variable among 'tas', 'other', received None"):
        plot.conservation(coarse, fine)
    assert "other" in plot.conservation(coarse, fine, variable="other", title="other").texts[0].get_text()


def noise(shape: tuple[int, int], step: float, rng: np.random.Generator) -> xr.DataArray:
    """White noise of unit variance on a plane, cells of ``step`` metres."""
    y, x = (step * (np.arange(n) + 0.5) for n in shape)
    attrs = {"units": "m", "standard_name": "projection_{}_coordinate"}
    coords = {
        "y": ("y", y, {**attrs, "standard_name": "projection_y_coordinate"}),
        "x": ("x", x, {**attrs, "standard_name": "projection_x_coordinate"}),
        "time": np.arange(24),
    }
    return xr.DataArray(rng.normal(size=(24, *shape)), coords, ("time", "y", "x"), "noise", {"units": "1"})


def test_white_noise_has_the_density_of_its_cells() -> None:
    """Variance times cell area at every wavenumber: what makes grids of two resolutions comparable."""
    for step in (1000.0, 4000.0):
        wave, power = plot.power_spectrum(noise((64, 64), step, np.random.default_rng(1)))
        # The longest waves lose what the subtracted mean takes.
        assert np.allclose(power[1:] / step**2, 1.0, atol=0.15)
        assert wave[-1] == pytest.approx(0.5 / step)


def test_long_waves_of_a_fine_field_are_those_of_the_coarse_one(pair: Any) -> None:
    (_, coarse), (_, fine) = plot.power_spectrum(pair[0]), plot.power_spectrum(pair[1])
    assert np.allclose(fine[:4] / coarse[:4], 1.0, atol=0.05)
    assert fine.size > 3 * coarse.size


def test_the_spectrum_draws_every_field_and_marks_the_shortest_wave(pair: Any) -> None:
    figure = plot.spectrum({"coarse": pair[0], "fine": pair[1]}, slope=-3.5)
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["coarse", "fine"]
    said = " ".join(text.get_text() for text in panel.texts)
    assert "shortest wave of coarse" in said
    assert "−3.5" in said  # noqa: RUF001
    assert "K" in panel.get_ylabel()


def test_spectra_of_nothing_or_of_two_units_are_refused(pair: Any) -> None:
    with pytest.raises(OptionError, match="fields by label, received none"):
        plot.spectrum({})
    other = pair[0].copy()
    other["tas"] = other.tas.assign_attrs(units="degC")
    with pytest.raises(InputError, match="fields in one unit, received K and degC; convert one"):
        plot.spectrum({"a": pair[0], "b": other})


def test_the_box_of_a_zoom_is_where_the_detail_is(pair: Any) -> None:
    fine = pair[1].copy(deep=True)
    fine.tas[:, 60:64, 100:104] += np.array([40.0, -40.0, 40.0, -40.0], "f4")
    figure = plot.zoom(pair[0], fine)
    ring = figure.axes[0].lines[-1].get_xydata()
    x, y = figure.axes[0].projection.transform_point(float(fine.lon[102]), float(fine.lat[62]), _geodetic())
    assert ring[:, 0].min() < x < ring[:, 0].max()
    assert ring[:, 1].min() < y < ring[:, 1].max()


def test_a_zoom_has_one_scale_and_takes_any_branch_of_longitude(pair: Any, tmp_path: Path) -> None:
    for box in ((-110.0, -95.0, 30.0, 45.0), (250.0, 265.0, 30.0, 45.0)):
        figure = plot.zoom(pair[0], pair[1], box, path=tmp_path / "zoom.png")
        drawn = [mesh for panel in figure.axes[:3] for mesh in panel.collections]
        limits = {mesh.get_clim() for mesh in drawn if mesh.get_array() is not None}
        assert len(limits) == 1
    assert (tmp_path / "zoom.png").stat().st_size > 50_000


def test_a_box_outside_and_quadrilaterals_are_refused(pair: Any) -> None:
    with pytest.raises(OptionError, match=r"box \(west, east, south, north\) within .*, received \(0, 10, 0, 10\)"):
        plot.zoom(pair[0], pair[1], (0, 10, 0, 10))


def test_bars_are_frequencies_relative_to_flat() -> None:
    figure = plot.rank_histogram([10, 20, 30])
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([0.5, 1.0, 1.5])
    two = plot.pit_histogram({"a": np.ones(10), "b": np.arange(1, 11)})
    assert len(two.axes) == 2
    assert two.axes[0].get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ([3], "two or more ranks, received shape"),
        ([[1, 2]], "two or more ranks, received shape"),
        ([1, -1], "counts of zero or more, some above"),
        ([0, 0], "counts of zero or more, some above"),
        ([1, np.nan], "counts of zero or more, some above"),
        ({"wet": [1]}, "wet: expected the counts"),
    ],
)
def test_counts_that_are_none_are_refused(counts: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        plot.rank_histogram(counts)


def test_every_figure_refuses_a_missing_folder_before_any_work(pair: Any, tmp_path: Path) -> None:
    path = tmp_path / "none" / "map.png"
    for draw in (plot.conservation, plot.zoom):
        with pytest.raises(OutputError, match="existing folder"):
            draw(*pair, path=path)
    for draw, what in ((plot.spectrum, {"a": pair[0]}), (plot.rank_histogram, [1, 2]), (plot.pit_histogram, [1, 2])):
        with pytest.raises(OutputError, match="existing folder"):
            draw(what, path=path)


@pytest.mark.parametrize("kind", ["compare", "zoom", "conservation", "spectrum"])
def test_the_accessor_draws_whichever_is_the_coarse_one(pair: Any, kind: str, tmp_path: Path) -> None:
    pair[1].downscale.plot(pair[0], kind, path=tmp_path / "a.png")
    pair[0].downscale.plot(pair[1], kind, path=tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_accessor_refuses_what_it_cannot_draw(pair: Any) -> None:
    with pytest.raises(OptionError, match=r"expected a kind among 'compare', 'zoom', .*, received 'pie'"):
        pair[0].downscale.plot(pair[1], "pie")
    with pytest.raises(OptionError, match="expected the other resolution, received none"):
        pair[0].downscale.plot()
    assert len(pair[0].downscale.plot(kind="spectrum").axes[0].get_legend().get_texts()) == 1


def test_constant_fields_have_no_spectrum() -> None:
    flat = downscale.sample.open("north_america").isel(time=0) * 0 + 280
    with pytest.raises(InputError, match=r"expected fields that vary, received constant ones \(coarse\)"):
        plot.spectrum({"coarse": flat})
