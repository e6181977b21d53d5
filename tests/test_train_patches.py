"""Patches: of one place and time in all their fields, under their own areas, turned without a wrong direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import plane
from training_recipes import SAMPLE, data_block

from downscale.errors import InputError
from downscale.fields.gradient import Spacing, sobel
from downscale.training.pairs import MapCache, open_source, read_truth, split_times
from downscale.training.patches import PatchSet, Sample, collate, reorient_sample, static_components
from downscale.training.sampling import PatchIndex, PatchSampler, candidates, require_samples
from downscale.training.schema import Network, Patches
from downscale.training.statistics import measure_statistics

CHANNELS = ("orog", "slope", "aspect_sin", "aspect_cos")
ASPECT = static_components(CHANNELS)


def drawn(how: Patches, *pairs: dict, **more: object):  # type: ignore[no-untyped-def, type-arg]
    """Sources, sides, survey and draws of training patches."""
    data = data_block(*pairs, **more)
    sources = [open_source(pair, data, Network()) for pair in data.pairs]
    sides = [split_times(s.dates, s.sizes[0], data.validation, s.pair.use, s.label) for s in sources]
    found = measure_statistics(sources, sides, data, how)
    maps = [s.maps_of(side.train) for s, side in zip(sources, sides, strict=True)]
    return sources, sides, found, PatchSampler(sources, found.tables, maps, how, 0)


def test_all_fields_of_a_patch_are_of_one_place_and_keep_the_cell_law() -> None:
    how = Patches(size=(5, 7))
    sources, _, _, draws = drawn(how, statics=["orog"])
    patches = PatchSet(MapCache(sources, 64), (), how)
    keys = draws.training_keys(0, 40)
    batch = collate([patches[key] for key in keys], (4, 4))
    assert batch.target.shape == (40, 1, 20, 28)
    assert batch.statics.shape == (40, 1, 20, 28)
    # Rows of the sphere differ in their areas: only each patch's own make its averages right.
    error = batch.cells.mean(batch.target.double()) - batch.coarse
    assert error.abs().max() < 1e-4
    for key, target in zip(keys, batch.target, strict=True):
        rows, columns = slice(4 * key.row, 4 * key.row + 20), slice(4 * key.column, 4 * key.column + 28)
        plain = patches.cache.get(0, key.number).target[:, rows, columns]
        np.testing.assert_array_equal(np.sort(plain.ravel()), np.sort(target.numpy().ravel()))


def test_batches_keep_the_law_where_areas_are_wrong_for_none() -> None:
    """The law would be broken by a tenth of a degree with the areas of another row."""
    how = Patches(size=4, augment=False)
    sources, _, _, draws = drawn(how)
    patches = PatchSet(MapCache(sources, 64), (), how)
    low, high = patches[PatchIndex(0, 0, 0, 0)], patches[PatchIndex(0, 0, 5, 0)]
    assert np.abs(low.area_fraction - high.area_fraction).max() > 1e-4
    assert len(draws.maps) == 18


@given(turn=st.integers(0, 7), ascending=st.booleans())
def test_a_turned_patch_has_the_slopes_of_the_turned_relief(turn: int, ascending: bool) -> None:
    rng = np.random.default_rng(turn)
    grid = plane(16, 16)
    if ascending:
        grid = grid.with_axes(grid.y.reverse(), grid.x)
    orog = rng.normal(size=(16, 16)) * 300

    def directions(relief: np.ndarray) -> np.ndarray:
        east, north = sobel(relief, Spacing.of(grid))
        return np.stack([east, north]) / np.hypot(east, north)

    slope = np.hypot(*sobel(orog, Spacing.of(grid)))
    statics = np.stack([orog, slope, *directions(orog)]).astype("f4")
    coarse, share = np.zeros((1, 4, 4), "f4"), np.full((16, 16), 1 / 16)
    sample = Sample(statics[:1], statics[:1], coarse, coarse[:0], statics, np.zeros(0, "f4"), share, share.astype("f4"))
    made = reorient_sample(sample, turn, ASPECT, ascending)
    np.testing.assert_allclose(made.statics[2:], directions(made.statics[0].astype("f8")), atol=1e-5)
    steep = np.hypot(*sobel(made.statics[0].astype("f8"), Spacing.of(grid)))
    np.testing.assert_allclose(made.statics[1], steep, rtol=1e-4)


def test_every_turn_differs_and_keeps_the_averages() -> None:
    how = Patches(size=6)
    sources, _, _, _ = drawn(how)
    patches = PatchSet(MapCache(sources, 64), (), how)
    samples = [patches[PatchIndex(0, 0, 1, 2, turn)] for turn in range(8)]
    assert len({sample.target.tobytes() for sample in samples}) == 8
    batch = collate(samples, (4, 4))
    assert (batch.cells.mean(batch.target.double()) - batch.coarse).abs().max() < 1e-4


def test_draws_are_the_same_for_a_seed_and_differ_from_round_to_round() -> None:
    how = Patches(size=4)
    sources, sides, found, draws = drawn(how)
    maps = [s.maps_of(side.train) for s, side in zip(sources, sides, strict=True)]
    again = PatchSampler(sources, found.tables, maps, how, 0)
    assert draws.training_keys(3, 50) == again.training_keys(3, 50)
    assert draws.training_keys(3, 50) != draws.training_keys(4, 50)
    assert len({key.orientation for key in draws.training_keys(0, 200)}) == 8
    assert len({key.number for key in draws.training_keys(0, 400)}) == 18
    other = PatchSampler(sources, found.tables, maps, how, 1)
    assert draws.training_keys(0, 50) != other.training_keys(0, 50)


def test_sources_are_drawn_by_their_weights_whatever_their_sizes() -> None:
    small = {**SAMPLE, "select": {"lat": (30.0, 45.0), "lon": (240.0, 270.0)}, "weight": 3.0}
    _, _, _, draws = drawn(Patches(size=3), SAMPLE, small)
    found = np.bincount([key.source for key in draws.training_keys(0, 2000)])
    np.testing.assert_allclose(found / 2000, [0.25, 0.75], atol=0.04)


def test_a_smoothed_truth_is_its_running_mean() -> None:
    plain, smooth = (open_source(pair, data, Network()) for data in [data_block(SAMPLE, {**SAMPLE, "smooth": 3})]
                     for pair in data.pairs)  # fmt: skip
    given, made = (read_truth(source, 2)[0][0] for source in (plain, smooth))
    np.testing.assert_allclose(made[4, 7], given[3:6, 6:9].mean(), rtol=1e-12)
    np.testing.assert_allclose(made[0, 0], given[:2, :2].mean(), rtol=1e-12)
    with pytest.raises(ValueError, match="an odd number of cells"):
        data_block({**SAMPLE, "smooth": 2})


def test_no_patch_of_training_is_of_a_time_that_validates() -> None:
    how = Patches(size=4)
    sources, sides, found, draws = drawn(how, validation={"fraction": 0.3, "gap": 2})
    held = PatchSampler(sources, found.tables, [sources[0].maps_of(sides[0].validation)], how, 0).validation_keys(500)
    trained = {key.number for key in draws.training_keys(0, 500)}
    assert max(trained) < min(key.number for key in held) - 2
    assert all(key.orientation == 0 for key in held)
    # Every cell of every map that validates is judged, also where patches do not fit side by side.
    places = {(key.number, key.row + i, key.column + j) for key in held for i in range(4) for j in range(4)}
    assert len(places) == 9 * 12 * sides[0].validation.size


def test_a_round_draws_from_no_more_maps_than_memory_holds() -> None:
    little = Patches(size=4, cache_mb=3.5 * 14256 / 2**20)
    _, _, _, draws = drawn(little)
    rounds = [{key.number for key in draws.training_keys(number, 200)} for number in range(12)]
    assert max(map(len, rounds)) == 3
    assert len(set.union(*rounds)) > 6


def test_small_grids_are_filled_up_beside_large_ones() -> None:
    small = {"fine": str(shared_data("temperature_era5_uk_0p25deg_201903_d01-20.nc")), "names": {"tas": "t2m"},
             "select": {"time": ["2019-03-01", "2019-03-02"]}}  # fmt: skip
    how = Patches(size=9)
    sources, _, _, _ = drawn(how, SAMPLE, small, statics=["orog"])
    patches = PatchSet(MapCache(sources, 64), (), how)
    batch = collate([patches[PatchIndex(0, 0, 0, 1)], patches[PatchIndex(1, 3, 0, 2)]], (4, 4))
    assert batch.target.shape == (2, 1, 36, 36)
    assert batch.target[0].isfinite().all()
    assert batch.target[1, :, 32:].isnan().all()
    assert (batch.weight[1, :, 32:] == 0).all()
    error = batch.cells.mean(batch.target.double()) - batch.coarse
    assert error[1, :, :8].abs().max() < 1e-4
    assert batch.source.tolist() == [0, 1]


def test_a_margin_is_not_judged() -> None:
    how = Patches(size=6, margin=1)
    sources, _, _, _ = drawn(how)
    weight = PatchSet(MapCache(sources, 64), (), how)[PatchIndex(0, 0, 0, 0)].weight
    assert (weight[:4] == 0).all()
    assert (weight[4:20, 4:20] > 0).all()


def test_candidates_tell_missing_and_constant_patches() -> None:
    coarse = np.zeros((1, 4, 8))
    coarse[0, :, 4:] = np.arange(16).reshape(4, 4)
    coarse[0, :2, 4:] = np.nan
    valid, active = candidates(coarse, (4, 4))
    np.testing.assert_allclose(valid, [[1, 0.75, 0.5]])
    assert active.tolist() == [[False, True, True]]


def test_dry_patches_are_drawn_seldom() -> None:
    path = {"fine": str(shared_data("precipitation_fmi_20160928_1km_5min.nc"))}
    rare, _ = (drawn(Patches(size=16, quiet=quiet), path, outputs=["precip"])[3] for quiet in (0.0, 1.0))
    source, number = rare.maps[0]
    worth, every = rare._sampling_weights(source, number), _._sampling_weights(source, number)
    assert (worth <= every).all()
    assert 0 < (worth > 0).sum() < (every > 0).sum()
    for key in rare.training_keys(0, 5):
        ready = MapCache(rare.sources, 64).get(0, key.number).coarse[0]
        near = ready[max(key.row - 4, 0) : key.row + 20, max(key.column - 4, 0) : key.column + 20]
        assert np.nanmax(near) > 0


def test_too_few_patches_are_one_line() -> None:
    how = Patches(size=8)
    *_, draws = drawn(how)
    count = draws.count_candidates()
    require_samples(draws, count, "training")
    with pytest.raises(InputError, match=f"expected at least {count + 1} patches of 8 x 8 .*received {count}"):
        require_samples(draws, count + 1, "training")


def test_batches_go_elsewhere_as_a_whole() -> None:
    how = Patches(size=4)
    sources, _, _, draws = drawn(how)
    patches = PatchSet(MapCache(sources, 64), (), how)
    batch = collate([patches[key] for key in draws.training_keys(0, 2)], (4, 4)).to(torch.float64)
    assert batch.target.dtype == torch.float64
    assert batch.cells.fine_shape == (16, 16)
