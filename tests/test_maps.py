"""Maps: a pixel shows the value of the cell it lies in, on any domain, offline; a file is whole or absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cftime
import matplotlib
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from result_grids import conic, equal_area, rotated, stereographic

import downscale
from downscale.cf.horizontal import horizontal
from downscale.cf.mapping import unrotate
from downscale.errors import GridError, InputError, OptionError, OutputError
from downscale.plot import compare
from downscale.plot.cells import choose_projection, crop_axis, find_field, read_cells
from downscale.plot.maps import find_coast, orography_level, robust_limits, round_degrees
from downscale.plot.style import degree_label, format_unit, value_words

SAMPLE = Path(__file__).parents[1] / "downscale" / "sample"
TAS = {"standard_name": "air_temperature", "long_name": "near-surface air temperature", "units": "K"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No map may reach for the network, nor depend on what the computer running the tests has installed."""
    import cartopy

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a map tried to download something")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("cartopy.io.Downloader.acquire_resource", refuse)
    monkeypatch.setattr("cartopy.io.shapereader.NEShpDownloader.acquire_resource", refuse)
    for folder in ("data_dir", "pre_existing_data_dir", "repo_data_dir"):
        monkeypatch.setitem(cartopy.config, folder, tmp_path / "no such folder")


def centres(low: float, high: float, number: int) -> np.ndarray:
    edges = np.linspace(low, high, number + 1)
    return (edges[1:] + edges[:-1]) / 2


def field(south: float, north: float, west: float, east: float, shape: tuple[int, int]) -> xr.DataArray:
    """Random cells, so that a cell drawn in the wrong place has the wrong colour."""
    values = np.random.default_rng(0).uniform(260, 300, shape)
    y, x = centres(south, north, shape[0]), centres(west, east, shape[1])
    return xr.DataArray(values, dims=("lat", "lon"), coords={"lat": y, "lon": x}, attrs=TAS, name="tas")


def plane(values: np.ndarray, cell: float) -> xr.DataArray:
    y, x = (cell * (np.arange(size) + 0.5) for size in values.shape)
    metres = {"units": "m"}
    return xr.DataArray(
        values, dims=("y", "x"), coords={"y": ("y", y, metres), "x": ("x", x, metres)}, attrs=TAS
    )


def pair(
    *domain: float, coarse: tuple[int, int] = (6, 8), factor: int = 3
) -> tuple[xr.DataArray, xr.DataArray]:
    fine = field(*domain, (coarse[0] * factor, coarse[1] * factor))
    y, x = centres(*domain[:2], coarse[0]), centres(*domain[2:], coarse[1])
    blocks = fine.values.reshape(coarse[0], factor, coarse[1], factor).mean((1, 3))
    return xr.DataArray(blocks, dims=("lat", "lon"), coords={"lat": y, "lon": x}, attrs=TAS), fine


DOMAINS = {
    "mid-latitudes": (15, 60, 225, 315),
    "southern": (-50, -26, 100, 148),
    "over-the-date-line": (-50, -26, 150, 198),
    "over-greenwich": (36, 60, -20, 28),
    "tropics": (-12, 12, 90, 138),
    "tropics-over-the-date-line": (-12, 12, 160, 208),
    "across-the-equator": (-56, 16, 276, 324),
    "arctic": (60, 90, 0, 360),
    "antarctic": (-90, -60, -180, 180),
    "arctic-sector": (60, 84, 290, 338),
    "world-0-360": (-90, 90, 0, 360),
    "world-180-180": (-90, 90, -180, 180),
    "world-odd-seam": (-90, 90, 7.5, 367.5),
    "belt": (-30, 30, 0, 360),
}
domains = pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)


def meshes(figure: Any) -> list[Any]:
    from matplotlib.collections import QuadMesh

    return [next(c for c in panel.collections if isinstance(c, QuadMesh)) for panel in figure.axes[:3]]


def picture(figure: Any, dpi: int = 100) -> np.ndarray:
    """Pixels of the figure, rows from the top."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def pixel(pixels: np.ndarray, panel: Any, x: float, y: float) -> np.ndarray:
    column, row = panel.transData.transform((x, y))
    return pixels[pixels.shape[0] - 1 - int(row), int(column)]


def central_longitude(projection: Any) -> float:
    parameters = projection.proj4_params
    return parameters["lon_0"] if "lon_0" in parameters else parameters.get("pm", 0.0)


def bare(figure: Any) -> Any:
    """Take lines and frames off the panels: only cells remain."""
    for panel in figure.axes[:3]:
        panel.spines[:].set_visible(False)
        for line in list(panel.lines):
            line.remove()
    return figure


@domains
def test_a_pixel_shows_the_cell_it_lies_in(domain: tuple[float, ...]) -> None:
    from cartopy.crs import Geodetic

    coarse, fine = pair(*domain)
    figure = bare(compare(coarse, fine))
    pixels = picture(figure)
    for panel, mesh, cells in zip(figure.axes, meshes(figure), (coarse, fine), strict=False):
        wrong, middle = 0, central_longitude(panel.projection)
        for j, i in np.ndindex(cells.shape):
            lat, lon = float(cells.lat[j]), float(cells.lon[i])
            if abs(lat) > 89:
                continue  # narrower than a pixel around the pole
            lon = middle + (lon - middle + 180) % 360 - 180  # PlateCarree itself does not wrap
            x, y = panel.projection.transform_point(lon, lat, Geodetic())
            wanted = np.round(255 * np.array(mesh.cmap(mesh.norm(cells.values[j, i])))[:3])
            wrong += int(np.abs(pixel(pixels, panel, x, y) - wanted).max() > 2)
        assert wrong == 0


@domains
def test_the_domain_is_filled_to_the_frame(domain: tuple[float, ...]) -> None:
    coarse, fine = pair(*domain)
    figure = bare(compare(coarse * 0 + 280, fine * 0 + 280, cmap="binary_r"))
    figure.axes[0].collections[0].set_clim(280, 281)  # black
    pixels = picture(figure)
    panel = figure.axes[0]
    inside = panel.patch.get_path().transformed(panel.patch.get_transform())
    height = pixels.shape[0]
    rows, columns = np.mgrid[0:height:3, 0 : pixels.shape[1] // 3 : 3]
    points = np.column_stack([columns.ravel() + 0.5, height - rows.ravel() - 0.5])
    covered = inside.contains_points(points, radius=3) & inside.contains_points(points, radius=-3)
    assert covered.sum() > 500
    assert pixels[rows.ravel()[covered], columns.ravel()[covered]].max() < 10


def test_world_maps_do_not_depend_on_where_longitudes_start() -> None:
    coarse, fine = pair(-90, 90, 0, 360)
    turned = [f.assign_coords(lon=(f.lon + 180) % 360 - 180).sortby("lon") for f in (coarse, fine)]
    assert (picture(compare(coarse, fine)) == picture(compare(*turned))).all()
    assert (picture(compare(coarse, fine)) == picture(compare(coarse, turned[1]))).all()


@pytest.mark.parametrize("flip", [{"lat": slice(None, None, -1)}, {"lon": slice(None, None, -1)}])
def test_the_order_of_rows_and_columns_does_not_matter(flip: dict[str, slice], tmp_path: Path) -> None:
    coarse, fine = pair(15, 60, 225, 315)
    compare(coarse, fine, path=tmp_path / "a.png", dpi=60)
    compare(coarse.isel(flip), fine.isel(flip).transpose("lon", "lat"), path=tmp_path / "b.png", dpi=60)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_both_fields_share_one_scale_and_the_detail_has_a_symmetric_one() -> None:
    coarse, fine = pair(15, 60, 225, 315)
    blocks, parts, detail = meshes(compare(coarse, fine + 3))
    assert blocks.get_clim() == parts.get_clim()
    low, high = detail.get_clim()
    assert low == -high < 0
    assert blocks.cmap == parts.cmap != detail.cmap


def test_the_detail_averages_to_zero_where_the_cell_law_holds() -> None:
    fine = plane(np.random.default_rng(1).normal(size=(12, 20)), 2000.0)
    coarse = plane(fine.values.reshape(3, 4, 5, 4).mean((1, 3)), 8000.0)
    detail = meshes(compare(coarse, fine))[2].get_array().reshape(12, 20)
    np.testing.assert_allclose(detail.reshape(3, 4, 5, 4).mean((1, 3)), 0, atol=1e-14)
    np.testing.assert_allclose(detail + np.kron(coarse.values, np.ones((4, 4))), fine.values)


def test_rounding_does_not_look_like_detail() -> None:
    coarse, _ = pair(15, 60, 225, 315)
    fine = field(15, 60, 225, 315, (18, 24)).copy(data=np.kron(coarse.values, np.ones((3, 3))))
    noise = np.random.default_rng(0).normal(size=fine.shape)
    assert meshes(compare(coarse, fine + 1e-12 * noise))[2].get_clim()[1] > 1e-4


def test_grids_that_do_not_nest_are_compared_by_cell_centres() -> None:
    coarse = plane(np.array([[1.0, 2.0], [3.0, 4.0]]), 3000.0)
    detail = meshes(compare(coarse, plane(np.zeros((3, 3)), 2000.0)))[2].get_array()
    # The middle centre lies on the coarse edge and belongs to the cell above it.
    np.testing.assert_array_equal(detail.reshape(3, 3), [[-1, -2, -2], [-3, -4, -4], [-3, -4, -4]])


def test_cells_have_the_bounds_of_a_dataset() -> None:
    lat_bnds = np.array([[10.0, 20.0], [20.0, 26.0], [26.0, 28.0]])
    data = xr.Dataset(
        {"tas": (("lat", "lon"), np.arange(9.0).reshape(3, 3), TAS), "lat_bnds": (("lat", "bnds"), lat_bnds)},
        coords={"lat": lat_bnds.mean(axis=1), "lon": [1.0, 2.0, 3.0]},
    )
    read = read_cells(*find_field(data))
    np.testing.assert_array_equal(read.grid.y.edges, [10, 20, 26, 28])
    mesh = meshes(compare(data, data))[1]
    assert mesh.get_coordinates().shape[0] > 4  # long cells are divided so that they follow curved parallels


def test_windows_cut_divide_and_fill_gaps() -> None:
    axis = read_cells(*find_field(field(0, 4, 350, 358, (2, 4)))).grid.x
    np.testing.assert_allclose(crop_axis(axis, -9.0, 0.0, np.inf).edges, [-9, -8, -6, -4, -2, 0])
    np.testing.assert_allclose(crop_axis(axis, -8.0, -6.0, 1.0).edges, [-8, -7, -6])


def test_missing_cells_are_grey_and_never_a_colour() -> None:
    fine = plane(np.arange(64.0).reshape(8, 8), 1000.0)
    fine[2, 2] = np.nan
    fine[5, 5] = np.inf
    figure = compare(plane(np.ones((4, 4)), 2000.0), fine)
    pixels = picture(figure)
    for at in (2.5, 5.5):
        grey = pixel(pixels, figure.axes[1], at, at)
        assert np.ptp(grey) == 0
        assert 200 < grey[0] < 235
    assert np.isfinite(meshes(figure)[1].get_clim()).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, 273.15, -1e-9, 1e30])
def test_a_field_of_one_value_can_be_drawn(value: float, tmp_path: Path) -> None:
    coarse, fine = (plane(np.full((n, n), value), 8000.0 / n) for n in (4, 8))
    figure = compare(coarse, fine, path=tmp_path / "map.png", dpi=50)
    low, high = meshes(figure)[0].get_clim()
    assert low < high


def test_limits_are_robust_and_rain_starts_at_zero() -> None:
    rain = np.append(np.random.default_rng(2).gamma(0.3, 2.0, 10_000), 1e6)
    low, high = robust_limits(rain)
    assert low == 0
    assert high < 50
    assert robust_limits(np.full(3, np.nan)) == (0.0, 1.0)


def test_the_file_is_a_whole_png_of_the_figure(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    figure = compare(*pair(15, 60, 225, 315), path=path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    shape = matplotlib.image.imread(path).shape[:2]
    np.testing.assert_allclose(shape, 150 * figure.get_size_inches()[::-1], atol=1)
    assert shape[1] == 2000
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_panels_have_the_shape_of_the_domain() -> None:
    figure = compare(plane(np.zeros((4, 8)), 2000.0), plane(np.ones((8, 16)), 1000.0))
    for panel in figure.axes[:3]:
        box = panel.get_window_extent()
        assert box.height / box.width == pytest.approx(0.5, abs=0.01)
        assert panel.get_xlim() == (0, 16)  # km


def test_a_missing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"expected an existing folder for the map, received '.*gone'; create it"
    ):
        compare(xr.DataArray(0), xr.DataArray(0), path=tmp_path / "gone" / "map.png")


def test_paths_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    fields = pair(15, 60, 225, 315)
    with pytest.raises(OutputError, match="expected a file name for the map, received the folder"):
        compare(*fields, path=tmp_path)
    with pytest.raises(OutputError, match=r"expected a map file of type .*'png'.*received 'map.nc'"):
        compare(*fields, path=tmp_path / "map.nc")
    assert list(tmp_path.iterdir()) == []


def full_disk(*args: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


def interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("failure", "error"), [(full_disk, OutputError), (interrupt, KeyboardInterrupt)])
def test_a_failed_write_leaves_the_old_map_and_nothing_else(
    failure: Callable[..., None], error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failure)
    with pytest.raises(error, match=r"No space left on device|^$"):
        compare(*pair(15, 60, 225, 315), path=path, dpi=50)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def words(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def test_the_sample_names_its_field_its_cells_and_its_day_of_a_360_day_year() -> None:
    with xr.open_dataset(SAMPLE / "north_america_tas.nc") as data:
        coarse = data.tas.load()
    with xr.open_dataset(SAMPLE / "north_america_relief.nc") as relief:
        orog, sftlf = relief.orog.load(), relief.sftlf.load()
    fine = coarse.interp(lat=orog.lat, lon=orog.lon, kwargs={"fill_value": "extrapolate"})
    figure = compare(coarse, fine, select={"time": -1}, sftlf=sftlf, orog=orog)
    assert "Near-surface air temperature, annual mean" in words(figure)
    assert "2099-06-01 (360_day calendar)" in words(figure)
    assert "dotted: 1000 m above sea level" in words(figure)
    titles = [panel.get_title() for panel in figure.axes[:3]]
    assert titles == ["Coarse (37 \xd7 49 cells)", "Fine (148 \xd7 196 cells)", "Added detail"]
    assert figure.axes[3].get_xlabel() == "near-surface air temperature, annual mean (K)"
    assert figure.axes[4].get_xlabel() == "fine \N{MINUS SIGN} its coarse cell (K)"
    assert "1869-06-01" in words(compare(coarse, fine))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.datetime64("2017-06-02T15:30:00.000000000"), "2017-06-02 15:30"),
        (np.datetime64("2017-06-02T00:00:00.000000000"), "2017-06-02"),
        (cftime.Datetime360Day(2000, 2, 30), "2000-02-30 (360_day calendar)"),
        (cftime.DatetimeNoLeap(950, 2, 28, 6), "0950-02-28 06:00 (noleap calendar)"),
        (cftime.DatetimeGregorian(2000, 2, 29), "2000-02-29"),
        (np.float64(1.5), "time 1.5"),
        (3, "time 3"),
    ],
)
def test_days_of_any_calendar_are_said(value: Any, said: str) -> None:
    assert value_words("time", value) == said


def test_every_reduced_dimension_is_said_and_time_may_be_absent() -> None:
    coarse, fine = pair(15, 60, 225, 315)
    assert words(compare(coarse, fine)).splitlines()[1:] == []
    members = xr.concat([fine, fine + 1], "realization").assign_coords(realization=[7, 8])
    assert "realization 8" in words(compare(coarse, members, select={"realization": 1}))
    bare_dim = xr.concat([fine, fine + 1], "draw")
    assert "draw 0" in words(compare(coarse, bare_dim))
    assert meshes(compare(coarse, bare_dim, select={"draw": 1}))[1].get_array().max() == pytest.approx(
        float(fine.max()) + 1
    )


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"tiem": 0}, r"expected select to name one of 'lat', 'lon', 'time', received 'tiem'"),
        ({"time": 2}, r"expected an index of 'time' from 0 to 1, received 2"),
        ({"time": "2001"}, r"expected an index of 'time' from 0 to 1, received '2001'"),
    ],
)
def test_select_names_what_there_is(select: dict[str, Any], message: str) -> None:
    coarse, fine = (xr.concat([f, f], "time") for f in pair(15, 60, 225, 315))
    with pytest.raises(OptionError, match=message):
        compare(coarse, fine, select=select)


def test_fields_that_cannot_be_compared_are_refused() -> None:
    coarse, fine = pair(15, 60, 225, 315)
    with pytest.raises(OptionError, match="expected a colour map of matplotlib, received 'jett'"):
        compare(coarse, fine, cmap="jett")
    with pytest.raises(InputError, match="expected fields in one unit, received 'K' and 'degC'; convert one"):
        compare(coarse, fine.assign_attrs(units="degC"))
    with pytest.raises(GridError, match="expected axes of one kind, received longitude and projected"):
        compare(coarse, plane(np.ones((4, 4)), 1000.0))
    with pytest.raises(InputError, match="expected one field, received a Dataset with 'a', 'b'; name one"):
        compare(coarse, xr.Dataset({"a": fine, "b": fine}))


def contours(figure: Any) -> list[Any]:
    from matplotlib.contour import QuadContourSet

    return [c for panel in figure.axes[:3] for c in panel.collections if isinstance(c, QuadContourSet)]


@pytest.mark.parametrize(("scale", "units"), [(100.0, "%"), (1.0, "1")])
def test_without_coastline_files_the_coast_is_where_half_is_land(scale: float, units: str) -> None:
    coarse, fine = (plane(np.ones((n, n)), 8000.0 / n) for n in (4, 8))
    land = plane(scale * np.tile((np.arange(8) >= 4).astype(float), (8, 1)), 1000.0).assign_attrs(units=units)
    drawn = contours(compare(coarse, fine, sftlf=land))
    assert len(drawn) == 3
    np.testing.assert_allclose(drawn[0].get_paths()[0].vertices[:, 0], 4.0)
    assert contours(compare(coarse, fine, sftlf=land * 0)) == []
    assert contours(compare(coarse, fine)) == []
    assert len(contours(compare(coarse, fine, sftlf=land.where(land > 0)))) == 3  # the sea may be missing


def test_a_coast_crosses_the_date_line_unbroken() -> None:
    coarse, fine = pair(60, 90, 0, 360)
    # Another latitude in every column: the two ends meet only if they are made to.
    shore = 75 + 5 * np.random.default_rng(3).uniform(-1, 1, fine.lon.size)
    land = fine.copy(data=50 + 5 * (fine.lat.values[:, None] - shore))
    (path,) = contours(compare(coarse, fine, sftlf=land))[0].get_paths()
    np.testing.assert_allclose(path.vertices[0], path.vertices[-1], atol=10.0)  # metres


def test_installed_coastlines_are_found_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cartopy
    import shapefile

    assert find_coast(60.0) is None
    folder = tmp_path / "shapefiles" / "natural_earth" / "physical"
    folder.mkdir(parents=True)
    with shapefile.Writer(str(folder / "ne_110m_coastline")) as shapes:
        shapes.field("name", "C")
        shapes.line([[[-120.0, 20.0], [-60.0, 50.0]]])
        shapes.record("a coast")
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path)
    assert find_coast(60.0) == folder / "ne_110m_coastline.shp"
    coarse, fine = pair(15, 60, 225, 315)
    figure = compare(coarse, fine, sftlf=fine)
    assert contours(figure) == []
    assert (picture(figure) != picture(compare(coarse, fine))).sum() == 0
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path / "gone")
    assert (picture(figure) != picture(compare(coarse, fine))).sum() > 100


@pytest.mark.parametrize(
    ("top", "level"), [(5000.0, 2000.0), (2500.0, 1000.0), (450.0, 200.0), (100.0, None)]
)
def test_relief_is_one_round_altitude_within_the_range(top: float, level: float | None) -> None:
    orog = read_cells(*find_field(plane(np.full((5, 5), top), 1000.0)))
    assert orography_level(orog) == level
    assert orography_level(None) is None


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ((-180, 180, -90, 90), "EqualEarth"),
        ((0, 360, -30, 30), "PlateCarree"),
        ((0, 360, 50, 90), "NorthPolarStereo"),
        ((0, 360, -90, -55), "SouthPolarStereo"),
        ((290, 340, 59, 84), "NorthPolarStereo"),
        ((225, 315, 15, 60), "LambertConformal"),
        ((140, 190, -50, -10), "LambertConformal"),
        ((-18, 52, -36, 38), "PlateCarree"),
        ((276, 326, -57, 14), "LambertAzimuthalEqualArea"),
    ],
)
def test_the_projection_suits_the_domain(domain: tuple[float, float, float, float], name: str) -> None:
    assert type(choose_projection(*domain)).__name__ == name


def test_a_rotated_pole_is_no_geography() -> None:
    names = {"lat": "rlat", "lon": "rlon"}
    figure = compare(*(f.rename(names) for f in pair(-20, 20, 350, 390)))
    assert not hasattr(figure.axes[0], "projection")
    assert "rotated longitude" in figure.axes[0].get_xlabel()


SHAPES = {
    "wide": (-10, 10, 0, 360),
    "narrow": (-56, -20, 285, 291),
    "square": (36, 60, -20, 28),
    "arctic": (60, 90, 0, 360),
    "world": (-90, 90, 0, 360),
}


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("domain", SHAPES.values(), ids=SHAPES)
def test_no_text_overlaps_another_or_leaves_the_sheet(domain: tuple[float, ...], long: bool) -> None:
    coarse, fine = (xr.concat([f, f], "time") for f in pair(*domain))
    fine = fine.assign_attrs(units="kg m-2 s-1", long_name="moisture flux " * (12 if long else 1)) * 1e-6
    figure = compare(coarse.assign_attrs(fine.attrs) * 1e-6, fine)
    figure.canvas.draw()
    shown = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    ticks = {id(t) for axes in figure.axes[3:] for t in axes.get_xticklabels()}
    boxes = {t: t.get_window_extent() for t in shown if id(t) not in ticks}
    sheet = figure.bbox
    for text, box in boxes.items():
        assert sheet.x0 <= box.x0 < box.x1 <= sheet.x1, text
        assert sheet.y0 <= box.y0 < box.y1 <= sheet.y1, text
    for (a, box), (b, other) in combinations(boxes.items(), 2):
        assert not (box.overlaps(other) and box.width and other.width), (a, b)


def test_units_and_degrees_are_set_with_care() -> None:
    assert format_unit("kg m-2 s-1") == "kg\xa0m\u207b\xb2\xa0s\u207b\xb9"
    assert format_unit("m^2 s**-1") == "m\xb2\xa0s\u207b\xb9"
    assert format_unit("10-3 m") == "10\u207b\xb3\xa0m"
    assert format_unit("%") == "%"
    assert [degree_label(v, "EW") for v in (0.0, 180.0, 185.0, 285.0, 15.0)] == [
        "0°",
        "180°",
        "175°W",
        "75°W",
        "15°E",
    ]
    assert degree_label(-30.0, "NS") == "30°S"


@pytest.mark.parametrize("reach", [0.3, 2.0, 17.0, 90.0, 360.0])
def test_graticules_are_round_and_inside(reach: float) -> None:
    lines = round_degrees(10.1, 10.1 + reach, 4)
    assert 1 <= lines.size <= 9
    assert ((lines > 10.1) & (lines < 10.1 + reach)).all()


def test_tiny_numbers_share_a_power_of_ten() -> None:
    rain = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}
    coarse, fine = (
        plane(np.linspace(0, 5e-5, n * n).reshape(n, n), 8000.0 / n).assign_attrs(rain) for n in (4, 8)
    )
    fine.attrs["long_name"] = coarse.attrs["long_name"] = "rain in $ and \\"  # no TeX
    figure = compare(coarse, fine)
    figure.canvas.draw()
    assert figure.axes[3].get_xlabel() == "rain in $ and \\ (10\u207b\u2076 kg m\u207b\xb2 s\u207b\xb9)"
    assert figure.axes[3].get_xticklabels()[0].get_text() == "0"
    assert meshes(figure)[0].cmap.name == "Blues"


def test_a_script_the_font_lacks_does_not_cost_the_map(tmp_path: Path) -> None:
    coarse, fine = pair(15, 60, 225, 315)
    compare(coarse, fine, title="気温", path=tmp_path / "map.png", dpi=50)
    assert (tmp_path / "map.png").stat().st_size > 0


def test_settings_and_pyplot_are_left_alone() -> None:
    import matplotlib.pyplot as plt

    matplotlib.get_backend()  # asking for it settles it, once
    before = matplotlib.rcParams.copy()
    compare(*pair(15, 60, 225, 315))
    assert dict(matplotlib.rcParams) == dict(before)
    assert plt.get_fignums() == []


def test_importing_maps_imports_no_plotting() -> None:
    code = "import sys, downscale.plot; print([m for m in ('matplotlib', 'cartopy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def with_land_of(lon_0: float) -> xr.DataArray:
    """A world of quarter cells that is land east of a meridian, over half the circle."""
    y, x = centres(-90, 90, 180), centres(0, 360, 360)
    land = np.broadcast_to(np.mod(x - lon_0, 360) < 180, (180, 360)).astype(float)
    return xr.DataArray(land, dims=("lat", "lon"), coords={"lat": y, "lon": x}, attrs={"units": "1"}, name="sftlf")


def wrong_pixels(figure: Any, number: int, lon: np.ndarray, lat: np.ndarray, values: np.ndarray) -> int:
    """Count the cells whose colour is not found where their centre lies on the earth."""
    from cartopy.crs import Geodetic
    from matplotlib.cm import ScalarMappable

    # Slanting cells of the world are two or three pixels wide at a hundred dots an inch.
    pixels, panel = picture(figure, dpi=200), figure.axes[number]
    mesh = next(c for c in panel.collections if isinstance(c, ScalarMappable) and c.get_array() is not None)
    wrong, middle = 0, central_longitude(panel.projection)
    # Map of the world: two degrees a pixel towards the poles.
    most = 80 if type(panel.projection).__name__ == "EqualEarth" else 88
    for east, north, value in zip(lon.ravel(), lat.ravel(), values.ravel(), strict=True):
        if abs(north) > most or abs((east - middle) % 360 - 180) < 2:
            continue  # within a pixel of a pole or of the frame
        east = middle + (east - middle + 180) % 360 - 180
        shown = pixel(pixels, panel, *panel.projection.transform_point(east, north, Geodetic()))
        wanted = np.round(255 * np.array(mesh.cmap(mesh.norm(value)))[:3])
        wrong += int(np.abs(shown - wanted).max() > 2)
    return wrong


def cut_from(ds: xr.Dataset, factor: int) -> tuple[xr.Dataset, xr.Dataset]:
    """A rough field on fine cells that are refined from those of a file, and its means."""
    coarse = ds[["tas"]].isel(time=0).assign_coords({n: v for n, v in ds.coords.items() if "time" not in v.dims})
    return coarse, coarse.downscale(factor, bounds=None)


MAPPED = {"rotated": rotated, "equal-area": equal_area, "conic": conic, "stereographic": stereographic}


@pytest.mark.parametrize("made", MAPPED.values(), ids=MAPPED)
def test_a_pixel_shows_the_cell_of_a_projected_or_rotated_grid_it_lies_in(made: Callable[[], xr.Dataset]) -> None:
    coarse, fine = cut_from(made(), 3)
    figure = bare(compare(coarse, fine))
    for number, ds in enumerate((coarse, fine)):
        where = horizontal(ds)
        assert where.locator is not None
        lon, lat = where.locator(*np.meshgrid(where.grid.x.centres, where.grid.y.centres))
        assert wrong_pixels(figure, number, lon, lat, ds.tas.values) == 0
    assert hasattr(figure.axes[0], "projection")


def test_a_rotated_grid_may_run_over_its_own_seam_and_turn_about_its_pole() -> None:
    ds = rotated()
    moved = ds.assign_coords(rlon=ds.rlon + 178, rlon_bnds=ds.rlon_bnds + 178).drop_vars(["lat", "lon"])
    moved.crs.attrs["north_pole_grid_longitude"] = 35.0
    coarse, fine = cut_from(moved, 2)
    where = horizontal(fine)
    assert where.locator is not None
    lon, lat = where.locator(*np.meshgrid(where.grid.x.centres, where.grid.y.centres))
    assert wrong_pixels(bare(compare(coarse, fine)), 1, lon, lat, fine.tas.values) == 0


def turned_mesh(shape: tuple[int, int], box: Any, pole: tuple[float, float]) -> xr.Dataset:
    """Two-dimensional positions of a product grid about another pole: over the date line and around both poles."""
    south, north, west, east = box
    y, x = np.linspace(south, north, shape[0] + 1), np.linspace(west, east, shape[1] + 1)
    node = unrotate(*np.meshgrid(x, y), *pole)
    middle = unrotate(*np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2), *pole)
    coords = {}
    for name, nodes, inner in (("lat", node[1], middle[1]), ("lon", node[0], middle[0])):
        rings = np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=-1)
        attrs = {"standard_name": {"lat": "latitude", "lon": "longitude"}[name], "bounds": f"{name}_bnds"}
        coords[name] = (("j", "i"), inner, {**attrs, "units": "degrees"})
        coords[f"{name}_bnds"] = (("j", "i", "vertices"), rings)
    values = np.random.default_rng(0).uniform(260, 300, shape)
    return xr.Dataset({"tas": (("j", "i"), values, TAS)}, coords)


MESHES = {
    "world": ((-70, 70, 0, 360), (20.0, 35.0)), "europe": ((-12, 12, -15, 15), (-162.0, 39.25)),
    "pacific": ((-12, 12, -15, 15), (5.0, 39.25)), "arctic": ((-15, 15, -15, 15), (100.0, 3.0)),
}  # fmt: skip


@pytest.mark.parametrize(("box", "pole"), MESHES.values(), ids=MESHES)
def test_a_pixel_shows_the_quadrilateral_it_lies_in(box: Any, pole: Any) -> None:
    coarse = turned_mesh((18, 24), box, pole)
    fine = coarse.downscale(2, bounds=None)
    figure = bare(compare(coarse, fine))
    for number, ds in enumerate((coarse, fine)):
        assert wrong_pixels(figure, number, ds.lon.values, ds.lat.values, ds.tas.values) == 0


def test_no_quadrilateral_is_stretched_over_the_map() -> None:
    coarse = turned_mesh((18, 24), *MESHES["world"])
    figure = compare(coarse, coarse)
    corners = [path.vertices for path in figure.axes[0].collections[0].get_paths()]
    wide = np.array([np.ptp(v[:, 0]) for v in corners])
    low, high = figure.axes[0].get_xlim()
    # Cells of fifteen degrees; in the rows around a pole those of the map are as long as its edge.
    middle = np.array([abs(v[:, 1]).max() for v in corners]) < 5e6
    assert wide[middle].max() < 0.12 * (high - low)
    assert wide.max() < 0.2 * (high - low)


def test_the_detail_of_quadrilaterals_is_fine_minus_its_own_coarse_cell() -> None:
    coarse = turned_mesh((8, 10), *MESHES["europe"])
    fine = coarse.downscale(2, bounds=None)
    expected = fine.tas.values - np.kron(coarse.tas.values, np.ones((2, 2)))
    shown = compare(coarse.tas, fine.tas).axes[2].collections[0].get_array()
    np.testing.assert_array_equal(shown, expected.ravel())
    with pytest.raises(GridError, match=r"columns are parts of the 8 x 10 coarse cells, received 12 x 20 cells"):
        compare(coarse, fine.isel(j=slice(4, None)))
    with pytest.raises(GridError, match=r"columns are parts of the 8 x 10 coarse cells, received 8 x 10 cells"):
        compare(coarse, turned_mesh((8, 10), *MESHES["pacific"]))


def test_fields_about_two_poles_or_on_two_kinds_of_positions_are_refused() -> None:
    coarse, fine = pair(-4, 4, 0, 8)
    with pytest.raises(GridError, match="expected axes of one kind, received longitude and rotated longitude"):
        compare(coarse, cut_from(rotated(), 2)[1])
    with pytest.raises(GridError, match="received two-dimensional positions and longitude"):
        compare(turned_mesh((8, 10), *MESHES["europe"]), fine)


@pytest.mark.parametrize("made", [rotated, conic, lambda: turned_mesh((6, 8), *MESHES["europe"])])
def test_a_land_fraction_of_the_world_gives_the_coast_on_any_axes(made: Callable[[], xr.Dataset]) -> None:
    from cartopy.crs import Geodetic

    ds = made()
    coarse = ds.isel(time=0) if "time" in ds.dims else ds
    where = horizontal(coarse)
    if where.locator is None:
        lon = float(coarse.lon.mean())
    else:
        lon = float(where.locator(where.grid.x.centres.mean(), where.grid.y.centres.mean())[0])
    meridian = np.floor(lon)
    figure = compare(coarse, coarse, sftlf=with_land_of(meridian))
    drawn = contours(figure)
    assert len(drawn) == 3
    vertices = np.concatenate([path.vertices for path in drawn[0].get_paths()])
    east = Geodetic().transform_points(figure.axes[0].projection, vertices[:, 0], vertices[:, 1])[:, 0]
    # Half way on the map between centres of one-degree cells.
    np.testing.assert_allclose(east, meridian, rtol=0, atol=1e-3)


def test_of_other_times_the_nearest_is_shown_and_both_are_said() -> None:
    coarse, fine = pair(15, 60, 225, 315)
    months = xr.date_range("2001-01-16", periods=3, freq="30D", calendar="noleap", use_cftime=True)
    days = xr.date_range("2001-01-01T12:00", periods=90, freq="D", calendar="noleap", use_cftime=True)
    slow = xr.concat([coarse + i for i in range(3)], "time").assign_coords(time=months)
    fast = xr.concat([fine + i for i in range(90)], "time").assign_coords(time=days)
    figure = compare(slow, fast, select={"time": -1})
    assert "coarse 2001-03-17 (noleap calendar), fine 2001-03-17 12:00 (noleap calendar)" in words(figure)
    assert meshes(figure)[0].get_array().max() == pytest.approx(float(slow[2].max()))
    assert meshes(figure)[1].get_array().max() == pytest.approx(float(fast[75].max()))
    same = compare(slow, fast.isel(time=[15, 75]).assign_coords(time=months[[0, 2]]), select={"time": 2})
    assert "2001-03-17 (noleap calendar)" in words(same)
    assert "fine" not in words(same)


def test_a_step_is_dated_by_any_coordinate_that_tells_its_date() -> None:
    coarse, fine = (xr.concat([f, f], "time_counter") for f in pair(15, 60, 225, 315))
    dates = ("time_counter", np.array(["2015-01-16", "2015-02-15"], dtype="datetime64[ns]"))
    dated = [f.assign_coords(time_counter=[0.0, 1.0], time_centered=dates) for f in (coarse, fine)]
    said = words(compare(*dated, select={"time_counter": 1}))
    assert "2015-02-15" in said
    assert "time_counter" not in said


@pytest.mark.parametrize("unit", ["degC", "degree_C", "celsius", "degrees_Celsius"])
def test_degrees_celsius_are_written_as_such(unit: str) -> None:
    assert format_unit(unit) == "°C"


def test_an_ocean_model_over_the_date_line_is_drawn_cell_by_cell() -> None:
    with downscale.open_dataset(shared_data("nasty_curvilinear_nemo_orca1_sst_201501.nc"), chunks=None) as ds:
        part = ds.isel(y=slice(150, 300, 2), x=slice(0, 360, 2)).load().drop_vars(["bounds_lon", "bounds_lat"])
    lon = part.nav_lon.values
    assert np.abs(np.diff(lon)).max() > 300
    figure = compare(part, part)
    corners = np.array([path.vertices[:4] for path in figure.axes[0].collections[0].get_paths()])
    low, high = figure.axes[0].get_xlim()
    assert np.ptp(corners[..., 0], axis=1).max() < 0.1 * (high - low)
    held = int(np.isfinite(part.tos).sum())
    assert held <= len(corners) < 1.2 * held
    assert "2015-01-16 (360_day calendar)" in words(figure)
