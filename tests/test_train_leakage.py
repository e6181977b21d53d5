"""No time that trains is judged: in recipes, and in evaluations by the record of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors.torch import load_file, save_file
from training_recipes import SAMPLE, data_block, recipe_content

import downscale
from downscale.errors import OptionError
from downscale.models.checkpoint import Record, load_record, read_texts, save
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec, Variable
from downscale.training.fit import prepare
from downscale.training.origin import describe_source, file_digests, find_trained_times, require_disjoint, runs_of
from downscale.training.pairs import Source, Split, open_source, split_times
from downscale.training.schema import Network, load_training, parse_training

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = [path for path in sorted(FOLDER.rglob("*.yml")) if "pairs:" in path.read_text()]
FINE = SAMPLE["fine"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sample as it is, under another name, written anew, and other values on its cells."""
    folder = tmp_path_factory.mktemp("copies")
    ds = downscale.sample.open("north_america").load()
    plain = folder / "plain.nc"
    ds.to_netcdf(plain)
    (folder / "renamed.nc").write_bytes(plain.read_bytes())
    ds.to_netcdf(folder / "packed.nc", encoding={"tas": {"zlib": True, "complevel": 4}})
    ds.assign(tas=ds.tas + np.random.default_rng(0).normal(size=ds.tas.shape)).to_netcdf(folder / "other.nc")
    return {path.stem: str(path) for path in folder.glob("*.nc")}


def opened(*pairs: dict[str, Any], **more: Any) -> tuple[list[Source], list[Split]]:
    data = data_block(*pairs, **more)
    sources = [open_source(pair, data, Network()) for pair in data.pairs]
    return sources, [split_times(s.dates, s.sizes[0], data.validation, s.pair.use, s.label) for s in sources]


EAST, WEST = {"lon": (240.0, 280.0)}, {"lon": (281.0, 330.0)}
EARLY, LATE = {"time": ("1869", "1990")}, {"time": ("2060", "2099")}
LEAKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same": ({"use": "train"}, {}),
    "averaged": ({"use": "train", "average": 2}, {}),
    "smoothed": ({"use": "train", "smooth": 3}, {}),
    "all-validate": ({}, {"use": "validation"}),
    "part": ({"use": "train", "select": EAST}, {}),
    "late": ({"use": "train", "select": LATE}, {}),
    "other-splits": ({}, {"select": EARLY}),
}


@pytest.mark.parametrize(("one", "other"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_time_that_another_pair_of_the_same_file_holds_out_may_not_train(
    one: dict[str, Any], other: dict[str, Any], turned: bool
) -> None:
    pairs = [{"fine": FINE, **one}, {"fine": FINE, **other}]
    with pytest.raises(OptionError, match=r"data.pairs.*apart.*north_america.*leave out use: train") as caught:
        require_disjoint(*opened(*(pairs[::-1] if turned else pairs)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["renamed", "packed"])
def test_a_copy_is_the_same_data_under_any_name(copies: dict[str, str], name: str) -> None:
    with pytest.raises(OptionError, match="same data"):
        require_disjoint(*opened({"fine": copies["plain"]}, {"fine": copies[name], "use": "train"}))


APART: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same-split": ({}, {"average": 2}),
    "early": ({"use": "train", "select": EARLY}, {}),
    "other-cells": ({"use": "train", "select": WEST}, {"select": EAST}),
    "both-train": ({"use": "train"}, {"use": "train", "average": 2}),
}


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART)
def test_pairs_that_hold_out_the_same_or_share_nothing_are_let_through(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    require_disjoint(*opened({"fine": FINE, **one}, {"fine": FINE, **other}))


def test_other_values_on_the_same_cells_and_times_are_other_data(copies: dict[str, str]) -> None:
    require_disjoint(*opened({"fine": copies["plain"]}, {"fine": copies["other"], "use": "train"}))


def test_a_gap_in_time_keeps_its_distance() -> None:
    """What trains may not lie in the gap of another pair either."""
    near = {"fine": FINE, "use": "train", "select": {"time": ("1869", "2049")}}
    require_disjoint(*opened(near, {"fine": FINE}, validation={"fraction": 0.2, "gap": 0}))
    with pytest.raises(OptionError, match=r"received 2 of .*north_america"):
        require_disjoint(*opened(near, {"fine": FINE}, validation={"fraction": 0.2, "gap": 2}))


def test_a_leaking_recipe_is_refused_before_any_look_at_the_data(tmp_path: Path) -> None:
    content = recipe_content(tmp_path)
    content["data"]["pairs"].append({**SAMPLE, "use": "train"})
    with pytest.raises(OptionError, match=r"data.pairs.1: .* apart"):
        prepare(parse_training(content))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_that_ships_trains_on_what_a_pair_of_the_same_file_holds_out(path: Path) -> None:
    """By their text, so that it is known without the files: only a file that validates nowhere is all for training."""
    pairs = load_training(path).data.pairs
    held = {pair.fine for pair in pairs if pair.use != "train"}
    assert not [pair.fine for pair in pairs if pair.use == "train" and pair.fine in held]


def recorded(*pairs: dict[str, Any], **more: Any) -> Record:
    sources, sides = opened(*pairs, **more)
    return Record(sources=[describe_source(s, each) for s, each in zip(sources, sides, strict=True)])


def asked(record: Record, pair: dict[str, Any]) -> list[bool]:
    source = opened(pair)[0][0]
    return find_trained_times(record, source.fine, source.dates, source.sizes[0], source.files).tolist()


def test_the_record_tells_which_times_were_seen(copies: dict[str, str]) -> None:
    record = recorded({"fine": FINE}, validation={"fraction": 0.25, "gap": 2})
    wanted = [True] * 16 + [False] * 8
    for pair in ({}, {"average": 2}, {"select": EAST}):
        assert asked(record, {"fine": FINE, **pair}) == wanted
    middle = recorded({"fine": copies["plain"]}, validation={"span": ("1950", "1999"), "gap": 0})
    for name in ("plain", "renamed"):
        found = asked(middle, {"fine": copies[name]})
        years = downscale.sample.open("north_america").time.dt.year.values
        assert found == [not 1950 <= year <= 1999 for year in years]
    assert not any(asked(middle, {"fine": copies["other"]}))
    assert not any(asked(recorded({"fine": FINE, "select": WEST}), {"fine": FINE, "select": EAST}))


def test_a_file_of_the_first_format_counts_all_of_its_dates(tmp_path: Path) -> None:
    """It told which dates there were, not which of them trained."""
    old = recorded({"fine": FINE})
    for source in old.sources:
        del source["train_dates"], source["file_hashes"], source["validation_dates"]
    spec = ModelSpec("residual", (4, 4), (Variable("tas", "K"),), options={"width": 8, "depth": 1})
    path = save(tmp_path / "m.safetensors", Learned(spec), old)
    texts, weights = read_texts(path, "model"), load_file(path)
    # Before there was noise, nothing was said of it.
    first = {key: value for key, value in json.loads(texts["spec"]).items() if key != "noise"}
    save_file(weights, path, metadata={**texts, "format_version": "1", "spec": json.dumps(first)})
    again, record = load_record(path)
    assert again == spec
    assert all(asked(record, {"fine": FINE}))


def test_files_without_dates_are_the_same_by_their_content(tmp_path: Path) -> None:
    bare = downscale.sample.open("north_america").load().drop_vars("time")
    bare.to_netcdf(tmp_path / "bare.nc")
    record = recorded({"fine": str(tmp_path / "bare.nc")})
    assert all(asked(record, {"fine": str(tmp_path / "bare.nc")}))
    assert not any(asked(record, {"fine": FINE}))


def test_runs_are_those_of_the_dates_in_any_order() -> None:
    dates = np.array(["2000-01-03", "2000-01-01", "2000-01-02"], dtype="M8[ns]")
    assert runs_of(dates, np.array([0, 2])) == [["2000-01-02T00:00:00", "2000-01-03T00:00:00"]]
    assert runs_of(None, np.array([0])) == []


def test_digests_read_little_of_large_files_and_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 0
    store = tmp_path / "s.zarr"
    stored = xr.Dataset({"a": (("t", "x"), np.random.default_rng(0).normal(size=(600, 3000)))})
    stored.chunk(t=1).to_zarr(store, consolidated=False)
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(3 << 30)
        file.seek(1 << 30)
        file.write(b"x")
    import io

    class Counted(io.FileIO):
        def read(self, *given: Any) -> bytes:
            nonlocal size
            made = super().read(*given)
            size += len(made)
            return made

    monkeypatch.setattr(Path, "open", lambda self, mode="r", *_: Counted(self, mode.replace("b", "")))
    first = file_digests([str(store), str(large)])
    assert len(set(first)) == 2
    assert size < 20 << 20
    assert file_digests([str(large), str(store)]) == first[::-1]
