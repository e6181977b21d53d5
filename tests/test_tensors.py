"""Blocks by tensors: the operator laid out once, batches that come back while others go, devices that are full."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import field_on, rain_on, random_field, region, relief_on, same_bits, world
from strategies import factor_pairs, grids, seeds
from torch.utils._python_dispatch import TorchDispatchMode

import downscale
from downscale.engine import apply, tensors
from downscale.engine.device import DeviceTransfer, compile_with_fallback
from downscale.errors import ConservationError
from downscale.fields.fill import fill_missing
from downscale.nn.separable import METHODS, Separable, operator
from downscale.request import Request
from downscale.steps.prepare import plan_maps
from downscale.typing import Place

methods = st.sampled_from(sorted(METHODS))
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
CPU = torch.device("cpu")


@pytest.fixture
def by_tensors() -> Iterator[None]:
    with downscale.set_options(engine="torch"):
        yield


def assert_close(ours: torch.Tensor, twin: torch.Tensor) -> None:
    assert torch.equal(ours.isnan(), twin.isnan())
    # Solves of rows beside the poles are exact to some 1e-11; weights equal to that are taken for the same.
    scale = float(twin.nan_to_num().abs().max())
    assert float((ours - twin).nan_to_num().abs().max()) <= 1e5 * np.finfo("f8").eps * scale


# The operator laid out.


@given(grids(1, 8), factor_pairs, st.sampled_from([0.1, 0.6]), seeds)
def test_gaps_are_filled_bit_for_bit(grid, factor, missing, seed):
    up, coarse = operator("sobolev", grid, factor), random_field((2, *grid.shape), seed, missing)
    gaps = coarse.isnan()
    laid = up.layout(0, 0, grid.shape)
    ours = laid.fill_missing(coarse, gaps)
    assert not laid.state_dict()  # made of the operator, never stored
    assert torch.equal(ours, fill_missing(coarse, gaps, up.reach, grid.x.periodic))


@given(grids(1, 8), methods, seeds, st.integers(1, 5))
def test_other_maps_change_no_bit_of_a_map(grid, method, seed, maps):
    laid = operator(method, grid, 3).layout(0, 0, grid.shape)
    coarse = random_field((maps, *grid.shape), seed, 0.0)
    whole = laid(coarse, False)
    assert torch.equal(whole[-1:], laid(coarse[-1:], False))
    assert torch.equal(whole, laid(coarse, True))  # asked to look for gaps where none are


class Watch(TorchDispatchMode):
    """Keeps the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "_to_copy", "copy_", "lift_fresh", "to"}


@pytest.mark.parametrize("gaps", [False, True])
def test_a_call_copies_nothing_and_waits_for_nothing(gaps):
    up, coarse = operator("sobolev", world(), 4), random_field((2, 12, 16), 0, 0.1 if gaps else 0.0)
    laid = up.layout(0, 0, (12, 16))
    with Watch() as watch:
        laid(coarse, gaps)
    assert "index_select" in watch.seen
    assert not WAITING & set(watch.seen)
    # Tensors without values: any question to them is an error.
    assert laid.to("meta")(coarse.to("meta"), gaps).shape == (2, 48, 64)
    with Watch() as watch:
        up(coarse)
    assert WAITING & set(watch.seen)  # the test can fail


def test_what_cannot_be_compiled_goes_on_as_it_is(monkeypatch, caplog):
    def refuse(function: Any, **options: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise RuntimeError("no compiler here\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    twice = compile_with_fallback(lambda x: 2 * x)
    with caplog.at_level(logging.WARNING, "downscale"):
        assert [float(twice(torch.tensor(x))) for x in (1.0, 2.0)] == [2.0, 4.0]
    words = "up-sampling continues without compilation, which failed: RuntimeError: no compiler here"
    assert caplog.messages == [words]


def test_a_full_device_is_no_failure_of_the_compiler(monkeypatch):
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda function, **options: full)
    with pytest.raises(torch.OutOfMemoryError):
        compile_with_fallback(lambda x: x)(torch.ones(1))


@pytest.mark.slow
def test_compiled_it_is_the_same_for_any_number_of_maps(caplog):
    up = operator("sobolev", world(), 4)
    plain, fast = (up.layout(0, 0, (12, 16)) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast.refine = compile_with_fallback(fast.refine)
        for maps in (1, 2, 3, 7):
            coarse = random_field((maps, 12, 16), maps, 0.1)
            assert_close(fast(coarse, True), plain(coarse, True))
    if "without compilation" in caplog.text:
        pytest.skip("no compiler here")


# Batches.


class Late(DeviceTransfer):
    """A transfer that overlaps: results are looked at only when they are asked for."""

    def __init__(self, where: torch.device) -> None:
        super().__init__(where)
        self.overlaps = True
        self.under_way = 0
        TRANSFERS.append(self)

    def fetch(self, tensor: torch.Tensor, dtype: np.dtype[Any]) -> Callable[[], Any]:
        self.under_way += 1
        MOST.append(self.under_way)

        def landed() -> Any:
            self.under_way -= 1
            return super(Late, self).fetch(tensor, dtype)()

        return landed


TRANSFERS: list[Late] = []
MOST: list[int] = []


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tensors, "DeviceTransfer", Late)
    monkeypatch.setattr(tensors, "BATCH_VALUES", 1)
    TRANSFERS.clear()
    MOST.clear()
    yield
    assert TRANSFERS
    assert all(transfer.under_way == 0 for transfer in TRANSFERS)
    TRANSFERS.clear()


@pytest.mark.parametrize("options", [{}, {"quantity": "extensive"}, {"bounds": (0, None)}, {"conserve": None}], ids=str)
def test_one_batch_comes_back_while_the_next_is_computed(by_tensors, request, options):
    ds = rain_on(world(), 5, missing=0.1)
    whole = ds.downscale(2, **options)
    request.getfixturevalue("late")
    assert same_bits(ds.downscale(2, **options).pr, whole.pr)
    assert max(MOST) == 2


def test_relief_bounds_and_masks_travel_too(by_tensors, request):
    ds, relief = field_on(world(), 4), relief_on(world())
    mask = (relief.orog > 200).rename("mask")
    penalty = downscale.TerrainPenalty(1e-5, iterations=2)
    options: dict[str, Any] = {"orog": relief, "mask": mask, "lapse_rate": -6.5e-3, "terrain_penalty": penalty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = ds.downscale(2, **options)
        request.getfixturevalue("late")
        assert same_bits(ds.downscale(2, **options).tas, whole.tas)


def test_a_target_that_cuts_cells_is_gathered_from_batches(by_tensors, request):
    ds = rain_on(region(), 4, missing=0.1)
    whole = ds.downscale(target_grid="0.7x0.9")
    request.getfixturevalue("late")
    assert same_bits(ds.downscale(target_grid="0.7x0.9").pr, whole.pr)


def test_a_field_without_gaps_asks_the_device_for_none(by_tensors):
    def asks(ds: xr.Dataset, **options: Any) -> bool:
        with dask.config.set(scheduler="synchronous"), Watch() as watch:
            ds.downscale(2, **options)
        return "isfinite" in watch.seen or ("eq" in watch.seen and "abs" in watch.seen)

    assert not asks(field_on(world()))
    assert asks(field_on(world(), missing=0.1))
    assert asks(field_on(world()) * 1e35)  # might overflow on the way


def test_a_layout_is_made_once_for_all_blocks_of_the_same_cells(by_tensors, monkeypatch):
    made = []
    honest = Separable.layout

    def counted(self: Separable, *place: Any) -> Any:
        made.append(place)
        return honest(self, *place)

    monkeypatch.setattr(Separable, "layout", counted)
    ds = field_on(world(), 4)
    for method, layouts in {"bilinear": 4, "sobolev": 1}.items():  # whose halo is the world
        whole = ds.downscale(2, method)
        made.clear()
        lazy = ds.chunk(time=1, lat=6, lon=8).downscale(2, method)
        assert same_bits(whole.tas, lazy.tas.compute(scheduler="sync"))
        assert len(made) == len(set(made)) == layouts


def test_arrays_that_may_not_be_written_are_sent_in_silence():
    array = np.ones((2, 3))
    array.flags.writeable = False
    sent = DeviceTransfer(CPU).send(array)
    sent += 1
    assert (array == 1).all()
    assert DeviceTransfer(CPU).send(np.ones((2, 3), "i4")).dtype == torch.float64


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_what_is_fetched_is_rounded_as_arrays_are(kind):
    values = np.random.default_rng(0).normal(0, 1e3, (4, 5))
    fetched = DeviceTransfer(CPU).fetch(torch.from_numpy(values).T, np.dtype(kind))()
    assert fetched.dtype == np.dtype(kind)
    np.testing.assert_array_equal(fetched, values.T.astype(kind))


def test_a_card_is_filled_by_its_room_and_some_batches_a_block(monkeypatch):
    job = plan_maps(field_on(world(90, 180)), Request(factor=4)).jobs["tas"]
    rows, columns = (cuts[0] for cuts in apply.cuts_of(job, (90,), (180,)))
    work = tensors.BlockWork(job, rows, columns, {}, DeviceTransfer(CPU))
    values = 90 * 180 * 16
    assert work.batch_size(1000) == tensors.BATCH_VALUES // values
    for room in (1e6, 1e9, 1e11):
        monkeypatch.setattr(DeviceTransfer, "free_bytes", lambda self, room=room: int(room))
        for maps in (1, 10, 1000):
            batch = work.batch_size(maps)
            assert batch >= 1
            assert batch == 1 or batch * values * 8 * tensors.DEVICE_COPIES <= room * tensors.DEVICE_FRACTION
            assert batch * values <= max(tensors.DEVICE_VALUES, values)
    assert work.batch_size(1000) == tensors.DEVICE_VALUES // values


# Devices that are full.


class Greedy:
    """Nearest neighbours that need all memory there is for more than ``most`` maps."""

    factor, halo, multiple_of, laws = (2, 2), (0, 0), 1, frozenset({"phase"})

    def __init__(self, most: float) -> None:
        self.most, self.tried = most, list[int]()

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        self.tried.append(len(coarse))
        if len(coarse) > self.most:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 2.00 GiB")
        return coarse.repeat_interleave(2, -2).repeat_interleave(2, -1) + torch.arange(32.0)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
@pytest.mark.parametrize("way", [None, "late"])
def test_a_full_device_gets_smaller_batches_and_the_same_values(request, monkeypatch, caplog, most, way):
    ds = rain_on(world(), 11, missing=0.1)
    whole = ds.downscale(method=Greedy(np.inf))
    if way is not None:
        request.getfixturevalue(way)
        monkeypatch.setattr(tensors, "BATCH_VALUES", 2_000_000)
    greedy = Greedy(most)
    with caplog.at_level(logging.WARNING, "downscale"):
        assert same_bits(ds.downscale(method=greedy).pr, whole.pr)
    assert len(caplog.messages) == 1
    assert "pr: cpu ran out of memory; batches are cut down to" in caplog.messages[0]
    assert greedy.tried[0] == 11
    assert sum(n for n in greedy.tried if n <= most) == 11


def test_the_next_block_begins_with_what_there_was_room_for(caplog):
    ds, greedy = field_on(world(), 24), Greedy(2)
    with caplog.at_level(logging.WARNING, "downscale"):
        ds.chunk(time=12).downscale(method=greedy).compute(scheduler="sync")
    assert len(caplog.messages) == 1
    assert greedy.tried == [12, 6, 3] + [1] * 24


@pytest.mark.parametrize("way", [None, "late"])
def test_a_device_without_room_for_one_map_says_what_to_do(request, way):
    if way is not None:
        request.getfixturevalue(way)
    message = (
        r"^tas: expected room on cpu for one map of 24 x 32 fine cells \(about .* GB in work\), received out of "
        r'memory; use smaller chunks of rows and columns, or device="cpu"$'
    )
    greedy = Greedy(0)
    with pytest.raises(MemoryError, match=message):
        field_on(world(), 5).downscale(method=greedy)
    assert greedy.tried[-1] == 1


def test_one_map_is_tried_again_when_the_other_is_out_of_the_way(late, monkeypatch):
    """With two batches on the device there may be no room where there is room for one."""

    class Shy(Greedy):
        def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
            self.most = 1 if TRANSFERS[-1].under_way == 0 else 0
            return super().__call__(coarse, place)

    ds = rain_on(world(), 4)
    shy = Shy(0)
    assert same_bits(ds.downscale(method=shy).pr, ds.downscale(method=Greedy(np.inf)).pr)
    assert len(shy.tried) > 4


def test_a_law_broken_in_any_batch_is_found(late):
    class Losing(Greedy):
        def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
            fine = super().__call__(coarse, place)
            self.calls = getattr(self, "calls", 0) + 1
            return fine.masked_fill(torch.tensor(self.calls == 5), torch.nan)

    with pytest.raises(ConservationError, match="cells lost"):
        field_on(world(), 5).downscale(method=Losing(np.inf))


# On an accelerator, where there is one.


def on(where: str, ds: xr.Dataset, *arguments: Any, **options: Any) -> xr.Dataset:
    return ds.downscale(*arguments, device=where, **options)


OPTIONS: list[dict[str, Any]] = [
    {"method": method, **more}
    for method in sorted(METHODS)
    for more in ({}, {"quantity": "extensive"}, {"bounds": (0, None)}, {"conserve": None})
]


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_card_makes_what_the_processor_makes(by_tensors, options, missing):
    ds = rain_on(world(), 5, missing=missing)
    ours, theirs = (on(where, ds, 4, **options).pr.values for where in ("cuda", "cpu"))
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.nanmax(theirs))


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("values", [1, 3000, 2_000_000])
def test_on_a_card_batches_and_cuts_change_no_bit(monkeypatch, values):
    ds = rain_on(world(), 7, missing=0.1, dtype="float32")
    whole = on("cuda", ds, 2).pr
    monkeypatch.setattr(tensors, "DEVICE_VALUES", values)
    monkeypatch.setattr(tensors, "BATCH_VALUES", 1)
    assert same_bits(whole, on("cuda", ds, 2).pr)
    assert same_bits(whole, on("cuda", ds.chunk(time=2, lat=5, lon=6), 2).pr.compute())


@gpu
@pytest.mark.gpu
def test_a_card_that_is_full_goes_on_with_less(caplog):
    ds = field_on(world(180, 360), 24, dtype="float32")
    whole = on("cuda", ds, 4).tas
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 600e6) / total)
    try:
        with caplog.at_level(logging.WARNING, "downscale"):
            assert same_bits(whole, on("cuda", ds, 4).tas)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of memory" in caplog.text


@gpu
@pytest.mark.gpu
def test_on_a_card_the_operator_is_compiled(caplog):
    on("cuda", field_on(world()), 2)
    assert "without compilation" not in caplog.text
