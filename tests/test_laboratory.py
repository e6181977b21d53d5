"""The laboratory: every kind of subject is told, written and drawn; bad ones get one line and leave nothing behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from command import command

from downscale.artefacts import diagnose
from downscale.artefacts.kernel import Kernels, method_kernels, torus
from downscale.artefacts.model import model_probe
from downscale.metrics.response import red_noise
from downscale.models.checkpoint import Record, load, save
from downscale.nn.learned import Learned
from downscale.nn.separable import operator
from downscale.nn.spec import ModelSpec, Variable

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Mean of empty slice")]


def fine_file(path, ripple: float, factor: int = 2):
    """Two maps and a mask, with a checkerboard of that height."""
    pattern = np.tile([[ripple, -ripple], [-ripple, ripple]], (24, 32))
    tas = 280 + 5 * np.stack([red_noise(64, count=1, seed=i)[0, :48] for i in (1, 2)]) + pattern
    ds = xr.Dataset(
        {"tas": (("time", "lat", "lon"), tas, {"units": "K"})},
        coords={"time": [0, 1], "lat": ("lat", np.arange(48.0) / 10, {"units": "degrees_north"}),
                "lon": ("lon", np.arange(64.0) / 10, {"units": "degrees_east"})},
    )  # fmt: skip
    ds["land"] = ("lat", np.ones(48))
    ds.to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model whose plain transposed convolutions are rough, and speak."""
    torch.manual_seed(3)
    spec = ModelSpec(
        "residual", (2, 2), (Variable("tas", "K", mean=280.0, std=5.0),), constraint="none",
        options={"width": 4, "depth": 1, "fine_width": 4, "fine_depth": 0, "upsampling": "transposed"},
    )  # fmt: skip
    learned = Learned(spec)
    with torch.no_grad():
        for weight in learned.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return save(tmp_path_factory.mktemp("model") / "rough.safetensors", learned, Record(description="Rough."))


@pytest.mark.parametrize("target", ["sobolev", "transposed:5,2", "transposed:5x4,2"])
def test_a_kernel_is_told_written_and_drawn(target, tmp_path):
    said = command("inspect", target, "--json", tmp_path / "d.json", "--figure", tmp_path / "d.png")
    assert said.status == 0, said.err
    for word in ("Coverage", "Sum-to-one laws", "Spectral images", "Shifts by parts", "Checkerboard of fields"):
        assert word in said.out
    facts = json.loads((tmp_path / "d.json").read_text())
    assert facts["coverage"]["variation"] == {"sobolev": 0, "transposed:5,2": 5, "transposed:5x4,2": 2}[target]
    assert facts["imaging"]["overall_rejection_db"] > 5
    assert (tmp_path / "d.png").stat().st_size > 50_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "d.png"]


def test_advice_is_given_where_sizes_are_bad():
    said = command("inspect", "transposed:5,2").out
    assert "take k=6 along rows" in said
    assert "shifts by half a fine cell" in said


@pytest.mark.parametrize("name", ["sobolev", "bilinear"])
def test_the_kernel_on_a_torus_is_the_operator_of_that_name(name):
    from downscale.metrics.response import probe

    coarse = red_noise(24)
    slow = probe(lambda grid: operator(name, grid, 3), 24)(coarse)
    assert np.allclose(torus(method_kernels(name, (3, 3)), 24)(coarse), slow, rtol=0, atol=1e-10)


def test_weights_of_a_file_are_read_as_a_layer(tmp_path):
    weight = np.random.default_rng(0).normal(size=(3, 2, 6, 6)) + 0.2
    np.save(tmp_path / "w.npy", weight)
    found = diagnose(str(tmp_path / "w.npy"), 2)
    assert found.facts["coverage"]["kernel_size"] == [6, 6]
    assert "equivariance" not in found.facts
    np.save(tmp_path / "one.npy", np.array([1.0, 3.0, 3.0, 1.0]) / 4)
    assert diagnose(str(tmp_path / "one.npy"), 2).facts["laws"]["phase"] < 1e-12


def test_a_file_with_a_checkerboard_is_told_from_one_without(tmp_path):
    clean, rough = fine_file(tmp_path / "clean.nc", 0.0), fine_file(tmp_path / "rough.nc", 0.2)
    boards = {path.stem: diagnose(str(path), 2).facts["checkerboard"]["tas"] for path in (clean, rough)}
    assert boards["rough"]["p_value"] <= 0.01 < boards["clean"]["p_value"]
    assert boards["rough"]["checkerboard_index_db"] > boards["clean"]["checkerboard_index_db"] + 10
    assert boards["rough"]["maps"] == 2
    said = command("inspect", rough, "--factor", "2", "--figure", tmp_path / "f.png")
    assert said.status == 0, said.err
    assert "tas" in said.out
    assert "land" not in said.out
    assert (tmp_path / "f.png").exists()


def test_a_model_is_told_after_its_card(checkpoint, tmp_path):
    said = command("inspect", checkpoint, "--json", tmp_path / "m.json")
    assert said.status == 0, said.err
    assert said.out.index("## Variables") < said.out.index("Up-sampling layers") < said.out.index("Plane waves")
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["layers"][0]["kind"] == "transposed convolution"
    assert set(facts["waves"]) == {"rough.safetensors", "bilinear", "sobolev"}
    alone = command("inspect", checkpoint, "--card").out
    assert "Plane waves" not in alone


def test_an_untrained_model_is_sobolev_in_all_respects():
    spec = ModelSpec(
        "residual", (2, 2), (Variable("tas", "K"), Variable("pr")), statics=("relief", "lat"), constraint="additive"
    )
    made = model_probe(Learned(spec).eval(), 12)(red_noise(12))
    from downscale.metrics.response import probe

    assert np.allclose(made, probe(lambda grid: operator("sobolev", grid, 2), 12)(red_noise(12)), rtol=0, atol=1e-5)


def test_a_repair_is_told_and_leaves_less_of_a_checkerboard(checkpoint, tmp_path):
    out = tmp_path / "mended.safetensors"
    said = command("repair", checkpoint, "--smooth", "0.1", "--out", out, "--truth", fine_file(tmp_path / "t.nc", 0.0))
    assert said.status == 0, said.err
    line = next(line for line in said.out.splitlines() if "checkerboard of constants" in line)
    before, after = line.split("waves")[1].split()[:2]
    assert after == "none" or float(after) > float(before) + 40
    # Narrow terminals break the words of a table.
    told = said.out.replace("\n", "")
    for word in ("transpos", "phase", "checkerboard of constants", "RMSE on the given fields", out.name):
        assert word in told
    learned, record = load(out)
    assert record.description == "Rough. Up-sampling kernels smoothed by 0.1 after training."
    assert learned.spec == load(checkpoint)[0].spec


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["transposed:2,4"], "expected a kernel of at least the stride, received k=2 and s=4 along axis 0"),
        (["transposed:4,1"], "expected a stride of at least 2"),
        (["transposed:5"], "expected transposed:K,S"),
        (["transposed:5,2", "--factor", "3"], "expected no factor beside the stride"),
        (["sobolev", "--factor", "1"], "expected a factor of at least 2"),
        (["sobolev", "--factor", "x"], "expected --factor as a whole number or rows,columns"),
        (["nearest"], "expected one of 'conservative'"),
        (["no.nc", "--factor", "2"], "expected an existing file"),
        (["no.npy"], "expected --factor, the stride of the weights"),
        (["no.npy", "--factor", "2"], "expected an array of weights"),
        (["no.safetensors"], "no.safetensors"),
        (["rain", "--factor", "5"], "expected a factor of the bundled model 'rain'"),
        (["sobolev", "--figure", "nowhere/f.png"], "expected an existing folder for the map"),
        (["sobolev", "--json", "nowhere/f.json"], "expected a file in an existing folder for --json"),
    ],
)
def test_bad_subjects_get_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command("inspect", *arguments)
    assert said.status == 2
    assert words in said.complaint
    assert list(tmp_path.iterdir()) == []


def test_bad_files_get_one_line(tmp_path, checkpoint):
    path = fine_file(tmp_path / "f.nc", 0.0)
    assert "expected --factor" in command("inspect", path).complaint
    assert "tas: expected maps of at least 96 x 96 cells" in command("inspect", path, "--factor", "8").complaint
    assert "received 'pr'" in command("inspect", path, "--factor", "2", "--var", "pr").complaint
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan, 1.0, 1.0]))
    assert "expected finite weights" in command("inspect", tmp_path / "nan.npy", "--factor", "2").complaint
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "expected an array of weights" in command("inspect", tmp_path / "o.npy", "--factor", "2").complaint
    assert (
        "expected the factor of the model"
        in command("inspect", checkpoint, "--factor", "3", "--json", tmp_path / "x").err
    )
    existing = tmp_path / "there.safetensors"
    existing.touch()
    itself = command("repair", checkpoint, "--out", checkpoint, "--overwrite")
    assert "expected an output other than the input" in itself.complaint
    assert "pass --overwrite" in command("repair", checkpoint, "--out", existing).complaint
    out = tmp_path / "n.safetensors"
    assert "a strength of smoothing of 0 to" in command("repair", checkpoint, "--out", out, "--smooth", "-1").complaint
    assert not out.exists()


def test_several_kernels_are_judged_together():
    both = Kernels("two", np.stack([np.ones((4, 4)), -np.ones((4, 4))]) / 4, (2, 2), (1, 1))
    assert both.imaging.overall_of_constants == 300
