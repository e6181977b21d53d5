"""Training from recipe to checkpoint: it learns, it can be killed, and what is wrong is one line."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from command import command
from hypothesis import given
from hypothesis import strategies as st
from run_process import ROOT, ended, killed, started, when
from safetensors.torch import load_file
from training_recipes import SAMPLE, recipe_content, tiny_recipe

import downscale
from downscale.engine.device import has_fast_bf16
from downscale.errors import DownscaleError, InputError, OptionError, OutputError
from downscale.io.leases import lock_path
from downscale.models.checkpoint import load
from downscale.training import progress
from downscale.training.fit import prepare, train
from downscale.training.pairs import MapCache
from downscale.training.progress import Progress, fraction_done, has_ended, learning_rate, remaining_steps
from downscale.training.schema import Training, parse_training
from downscale.training.tasks import Downscaling

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A checkpoint of a short training, and what was said on the way."""
    folder, said = tmp_path_factory.mktemp("trained"), list[str]()
    path = train(tiny_recipe(folder, steps=60, round=20, batch=8, learning_rate=4e-3), say=said.append)
    return path, said


def test_a_short_training_beats_the_kernel_on_later_years(trained: tuple[Path, list[str]]) -> None:
    path, said = trained
    learned, record = load(path)
    assert record.skill["skill"] < 0.9
    assert record.skill["steps"] == 60
    assert record.data_hash.startswith("sha256:")
    assert "Open Government Licence" in record.attribution[0]
    assert record.sources[0]["validation_maps"] == 5
    assert learned.spec.outputs[0].mean > 200
    assert learned.spec.constraint == "additive"
    assert any("step 60 of 60" in line for line in said)
    assert any("18 maps train, 5 validate" in line for line in said)


def test_the_skill_of_the_record_is_that_of_the_method(trained: tuple[Path, list[str]]) -> None:
    """What a user gets by method=PATH has the error that the checkpoint says, on whole maps of the same years."""
    path, _ = trained
    fine = downscale.sample.open("north_america").isel(lat=slice(0, 36), lon=slice(0, 48), time=slice(19, None)).load()
    coarse, area = downscale.coarsen(fine, 4), downscale.cell_area(fine)
    relief = downscale.sample.open("north_america_relief").orog

    def error(**how: Any) -> float:
        made = downscale.downscale(coarse, 4, orog=relief, **how)
        return float(np.sqrt(((made.tas - fine.tas.values) ** 2).weighted(area.drop_vars(area.coords)).mean()))

    ratio = error(method=str(path)) / error(method="sobolev")
    # Patches have edges where maps have none.
    assert ratio == pytest.approx(load(path)[1].skill["skill"], rel=0.15)


def test_maps_are_let_go_after_a_training(tmp_path: Path) -> None:
    """The next of a dozen trainings finds their memory free, though nobody looks for garbage between them."""
    gc.collect()
    gc.disable()
    try:
        train(tiny_recipe(tmp_path))
        left = sum(type(thing) is MapCache for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left == 0


def test_logs_are_kept_and_nothing_is_pickled(trained: tuple[Path, list[str]]) -> None:
    path, _ = trained
    folder = path.with_suffix(".training")
    lines = (folder / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 4
    assert {"relative_rmse", "loss", "learning_rate", "step"} <= set(lines[0].split(","))
    names = {each.suffix for each in path.parent.rglob("*") if each.is_file()}
    assert names == {".csv", ".safetensors"}
    assert not (folder / "state.safetensors").exists()


def test_resuming_what_is_done_returns_it(trained: tuple[Path, list[str]]) -> None:
    path, _ = trained
    before, said = path.read_bytes(), list[str]()
    recipe = tiny_recipe(path.parent, steps=60, round=20, batch=8, learning_rate=4e-3)
    assert train(recipe, resume=True, say=said.append) == path
    assert said == [f"{path} is done already"]
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match=r"expected to resume the recipe of .*received another one"):
        train(tiny_recipe(path.parent, steps=61), resume=True)
    with pytest.raises(OutputError, match=r"expected a new file, received .*exists; set overwrite: true in output:"):
        train(recipe)


RUNNER = """
import json, sys, torch
torch.set_num_threads(1)
from downscale.training.fit import train
from downscale.training.schema import parse_training
train(parse_training(json.load(open(sys.argv[1]))), resume=len(sys.argv) > 2, say=lambda line: print(line, flush=True))
"""


def process(folder: Path, content: dict[str, Any], *more: str, code: str = RUNNER) -> subprocess.Popen[str]:
    (folder / "recipe.json").write_text(json.dumps(content))
    line = [sys.executable, "-c", code, str(folder / "recipe.json"), *more]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


TO_KILL: dict[str, Any] = {"steps": 360, "round": 150, "save_every": 0.02, "loss": {"mse": 1.0, "mae": 0.1}}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    status, _, complaint = ended(process(folder, recipe_content(folder, **TO_KILL)))
    assert status == 0, complaint
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_killed_training_goes_on_to_the_same_weights(quiet: Path, tmp_path: Path, stop: signal.Signals) -> None:
    stopped = tmp_path
    content = recipe_content(stopped, **TO_KILL)
    run = process(stopped, content)
    state = stopped / "model.training" / "state.safetensors"
    assert when(run, lambda: steps_in(state) > 20), ended(run)
    killed(run, stop)
    assert 20 < steps_in(state) < 360
    assert not (stopped / "model.safetensors").exists()
    status, said, complaint = ended(process(stopped, content, "resume"))
    assert status == 0, complaint
    assert "resumes from step" in said
    assert not state.exists()
    one, other = (load_file(folder / "model.safetensors") for folder in (quiet, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = [load(folder / "model.safetensors")[1].skill for folder in (quiet, stopped)]
    assert records[0]["by_source"] == records[1]["by_source"]
    assert [row[0] for row in records[1]["rounds"]] == [150, 300, 360]


def steps_in(state: Path) -> int:
    """The steps that a state holds, 0 where there is none yet."""
    from downscale.models.checkpoint import read_texts

    return int(json.loads(read_texts(state, "state")["progress"])["step"]) if state.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_stopped_command_says_what_is_kept_and_how_to_go_on(
    tmp_path: Path, number: signal.Signals, word: str
) -> None:
    content = recipe_content(tmp_path, steps=100_000, round=50, save_every=0.02)
    (tmp_path / "r.yml").write_text(json.dumps(content))
    state = tmp_path / "model.training" / "state.safetensors"
    run = started(tmp_path, "train", "r.yml")
    assert when(run, lambda: steps_in(state) > 5), ended(run)
    status, _, complaint = killed(run, number)
    assert status == 128 + number
    assert complaint == f"downscale: {word}; step {steps_in(state)} of 100000 is kept; run again with --resume\n"
    assert not list(tmp_path.rglob("*.part"))
    before = steps_in(state)
    run = started(tmp_path, "train", "r.yml", "--resume")
    assert when(run, lambda: steps_in(state) > before), ended(run)
    status, said, _ = killed(run, number)
    assert status == 128 + number
    assert f"resumes from step {before}" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_group_of_processes_is_stopped_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C of a terminal, and many batch systems, signal the readers of the patches too."""
    content = recipe_content(tmp_path, steps=100_000, round=50, save_every=0.02, workers=2)
    (tmp_path / "r.yml").write_text(json.dumps(content))
    state = tmp_path / "model.training" / "state.safetensors"
    run = started(tmp_path, "train", "r.yml")
    assert when(run, lambda: steps_in(state) > 5), ended(run)
    readers = psutil.Process(run.pid).children(recursive=True)
    for one in [*readers, psutil.Process(run.pid)]:
        one.send_signal(number)
    status, _, complaint = ended(run)
    assert status == 128 + number
    lines = [line for line in complaint.splitlines() if line.startswith("downscale: ")]
    assert len(lines) == 1
    assert lines[0].endswith(f"step {steps_in(state)} of 100000 is kept; run again with --resume")
    assert "Traceback" not in complaint
    psutil.wait_procs(readers, timeout=20)
    assert not [one for one in readers if one.is_running()]


WAYS: dict[str, dict[str, Any]] = {
    "readers": {"workers": 2},
    "tensorboard": {"logger": "tensorboard"},
    "two-processes": {"devices": 2, "strategy": "ddp"},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_each_way_to_train_comes_to_its_end_and_says_it_once(tmp_path: Path, how: dict[str, Any]) -> None:
    if how.get("logger") == "tensorboard":
        pytest.importorskip("tensorboard")
    content = recipe_content(tmp_path, steps=40, round=20, batch=8, learning_rate=4e-3, **how)
    (tmp_path / "r.yml").write_text(json.dumps(content))
    status, said, complaint = ended(started(tmp_path, "train", "r.yml"))
    assert (status, complaint) == (0, "")
    lines = said.splitlines()
    assert len(lines) == len(set(lines))
    assert lines[-1] == f"wrote {tmp_path / 'model.safetensors'}"
    assert load(tmp_path / "model.safetensors")[1].skill["skill"] < 0.95
    logs = [path.name for path in (tmp_path / "model.training" / "logs" / "version_0").iterdir()]
    tensorboard = how.get("logger") == "tensorboard"
    assert any(name.startswith("events.out.tfevents") for name in logs) == tensorboard
    assert ("metrics.csv" in logs) != tensorboard


def test_a_login_node_of_a_cluster_is_no_reason_for_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `srun` is there, Lightning asks to be started by it, wherever it runs."""
    from downscale.training.loop import open_fabric

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_fabric(Training(accelerator="cpu", devices=1), tmp_path).world_size == 1


TERMINATED = """
import json, signal, sys
import torch
torch.set_num_threads(1)
import downscale
from downscale.process.interrupts import Terminated
from downscale.training.tasks import Downscaling
measure = Downscaling.measure_loss
def measure_loss(task, batch, number):
    if number == 5:
        signal.raise_signal(signal.SIGTERM)
    return measure(task, batch, number)
Downscaling.measure_loss = measure_loss
try:
    downscale.train(json.load(open(sys.argv[1])))
except Terminated as error:
    print(error, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


@pytest.mark.parametrize("per_round", [6, 50])
def test_a_training_from_python_keeps_its_step_at_a_signal(tmp_path: Path, per_round: int) -> None:
    run = process(tmp_path, recipe_content(tmp_path, steps=100, round=per_round), code=TERMINATED)
    status, said, complaint = ended(run)
    assert (status, said, complaint) == (0, "SIGTERM True\n", "")
    assert steps_in(tmp_path / "model.training" / "state.safetensors") == 6
    assert not lock_path(tmp_path / "model.safetensors").exists()


def test_an_earlier_run_is_neither_overwritten_nor_mixed_up(tmp_path: Path) -> None:
    content = recipe_content(tmp_path, steps=400, round=10, save_every=0.01)
    run = process(tmp_path, content)
    state = tmp_path / "model.training" / "state.safetensors"
    assert when(run, lambda: steps_in(state) > 0)
    killed(run)
    with pytest.raises(OutputError, match=r"expected no earlier run, received its state .*continue with --resume"):
        train(parse_training(content))
    other = recipe_content(tmp_path, steps=400, round=10, seed=1)
    with pytest.raises(InputError, match=r"expected the recipe, settings and data that .* was begun with"):
        train(parse_training(other), resume=True)
    content["output"]["overwrite"] = True
    content["training"].update(steps=2, round=1)
    assert train(parse_training(content)).is_file()


def test_time_and_patience_end_a_training(tmp_path: Path) -> None:
    begun = time.monotonic()
    path = train(tiny_recipe(tmp_path, steps=None, max_time="1 second", round=5, logger=None))
    assert load(path)[1].skill["seconds"] >= 1
    assert time.monotonic() - begun < 120
    recipe = recipe_content(tmp_path, steps=200, round=1, patience=1, learning_rate=1e-12, logger=None, ema=0.0)
    recipe["output"] = {"path": str(tmp_path / "other.safetensors")}
    rounds = load(train(parse_training(recipe)))[1].skill["rounds"]
    best = [min(row[2] for row in rounds[: i + 1]) for i in range(len(rounds))]
    # The first round that is no better is the last one.
    assert len(rounds) < 100
    assert [later < before for before, later in pairwise(best)] == [True] * (len(best) - 2) + [False]


@given(patience=st.integers(1, 6), better=st.lists(st.booleans(), min_size=8, max_size=30))
def test_a_training_stops_after_as_many_stale_rounds_as_its_patience(patience: int, better: list[bool]) -> None:
    how, progress, score = Training(steps=1000, patience=patience), Progress(), 1.0
    stale = 0
    for one in [True, *better]:
        assert not has_ended(progress, how)
        score -= 0.1 * one
        progress.record_score(score)
        stale = 0 if one else stale + 1
        if stale == patience:
            assert has_ended(progress, how)
            return


def test_a_training_says_something_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten seconds are none here: each look at a map and each step says how far it is."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    said: list[str] = []
    train(tiny_recipe(tmp_path, steps=6, round=6, loss_scale="kernel", logger=None), say=said.append)
    assert "maps looked at: 5 of 23" in said
    assert any(line.startswith("patches of the kernel looked at: 20 of 24") for line in said)
    lines = [line for line in said if re.fullmatch(r"step \d of 6, \d+ s: loss \d\S*, (about .* left)", line)]
    assert [line.split()[1] for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", [None, "deep/er/folder"])
@pytest.mark.parametrize(
    "fault", [{"accelerator": "abacus"}, {"learning_rate": 1e30, "clip": None, "schedule": "constant", "warmup": 0}],
    ids=["device", "diverges"],
)  # fmt: skip
def test_a_training_refused_late_leaves_no_folder(tmp_path: Path, folder: str | None, fault: dict[str, Any]) -> None:
    content = recipe_content(tmp_path, **{"steps": 40, "round": 40, **fault})
    content["output"]["folder"] = None if folder is None else str(tmp_path / folder)
    with pytest.raises(DownscaleError):
        train(parse_training(content))
    assert not list(tmp_path.iterdir())
    mine = Path(content["output"]["folder"] or tmp_path / "model.training")
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(DownscaleError):
        train(parse_training(content))
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("per_round", [4, 20])
def test_a_training_interrupted_in_its_last_validation_validates_when_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_round: int
) -> None:
    """No step is done twice, and the record is that of a training that nobody disturbed."""
    folders, how = [tmp_path / "whole", tmp_path / "cut"], {"steps": 8, "round": per_round}
    for folder in folders:
        folder.mkdir()
    whole = train(tiny_recipe(folders[0], **how))

    def stop(task: Downscaling, batch: Any, number: int) -> None:
        if task.optimizers[0].state_dict()["state"][0]["step"] == 8:
            raise KeyboardInterrupt
        return measure(task, batch, number)

    measure = Downscaling.measure_errors
    monkeypatch.setattr(Downscaling, "measure_errors", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(folders[1], **how))
    assert steps_in(folders[1] / "model.training" / "state.safetensors") == 8
    monkeypatch.undo()
    said: list[str] = []
    cut = train(tiny_recipe(folders[1], **how), resume=True, say=said.append)
    assert "resumes from step 8" in said
    one, other = (load_file(path) for path in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = [load(path)[1].skill for path in (whole, cut)]
    assert records[0]["by_source"] == records[1]["by_source"]
    assert [row[::2] for row in records[0]["rounds"]] == [row[::2] for row in records[1]["rounds"]]


def test_processor_time_does_not_pass_while_a_training_waits(tmp_path: Path) -> None:
    def waiting(line: str) -> None:
        if line.startswith("step 1 "):
            time.sleep(3)

    recipe = tiny_recipe(tmp_path, steps=2, round=1, max_time="2.5 seconds", clock="cpu", logger=None)
    skill = load(train(recipe, say=waiting))[1].skill
    assert skill["steps"] == 2
    assert 0 < skill["seconds"] < 2.5


EARLY = {"time": ["1869", "2040"]}


@pytest.mark.parametrize("scale", ["patch", "kernel"])
def test_several_sources_variables_and_losses_in_one_training(tmp_path: Path, scale: str) -> None:
    content = recipe_content(tmp_path, steps=3, round=3, loss_scale=scale, precision="bf16")
    content["data"] |= {
        "pairs": [SAMPLE, {**SAMPLE, "average": 2, "select": EARLY, "use": "train", "weight": 0.5}],
        "factor": 2,
        "statics": ["orog", "slope", "aspect", "lat"],
        "encodings": ["day_of_year"],
        "outputs": ["tas", {"name": "copy", "transform": "log1p", "units": "K", "bounds": [0, None]}],
        "predictors": [{"name": "beside", "transform": "local"}],
    }
    for pair in (pairs := [dict(pair) for pair in content["data"]["pairs"]]):
        pair["names"] = {"copy": "tas", "beside": "tas"}
    content["data"]["pairs"] = pairs
    terrain = {"weight": 0.1, "base_gradient": 1e-5, "ratio": 1e-3}
    few = {"mse": 1, "sobolev": 0.1, "terrain": terrain, "spectral": 0.01, "smoothness": 1e-3}
    content["training"]["loss"] = few
    # Where the processor would only imitate bf16, one line says that the training runs in float32.
    with nullcontext() if has_fast_bf16() else pytest.warns(UserWarning, match=r"precision: .* float32"):
        learned, record = load(train(parse_training(content)))
    assert learned.spec.constraint == "bounded"
    assert learned.spec.outputs[1].bounds == (0, None)
    assert [row["variable"] for row in record.skill["by_source"]] == ["tas", "copy"]
    assert "loss_terrain" in next((tmp_path / "model.training").rglob("metrics.csv")).read_text()


FAULTS: dict[str, tuple[dict[str, Any], type[DownscaleError], str]] = {
    "loss": ({"training": {"loss": {"rmse": 1.0}, "steps": 2}}, OptionError, "expected a loss among .*received 'rmse'"),
    "no-end": ({"training": {}}, OptionError, "expected training.steps or training.max_time, received neither"),
    "network": ({"network": {"name": "gan"}}, OptionError, "expected network to be among .*received 'gan'"),
    "option": ({"network": {"options": {"colour": 1}}}, OptionError, "expected options of 'residual' .*'colour'"),
    "few": ({"patches": {"size": 30}, "training": {"steps": 2, "batch": 99}}, InputError, "at least 99 patches"),
    "none-held": ({"data": {"validation": {"fraction": 0.0}}}, InputError, "expected at least 1 patches .*validation"),
    "flat": ({"data": {"outputs": [{"name": "tas", "bounds": [400, 500]}]}}, InputError, "expected values that vary"),
    "law": ({"conserve": None, "network": {"constraint": "bounded"}}, OptionError, "expected network.constraint"),
    "folder": ({"output": {"path": "/no/such/folder/m"}}, OutputError, "expected an existing folder for the output"),
    "device": ({"training": {"steps": 2, "accelerator": "abacus"}}, OptionError, "expected accelerator, devices"),
    "member": ({"training": {"steps": 2, "loss": {"crps": 1.0}}}, OptionError, "expected 'members' in the context"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line(
    tmp_path: Path, change: dict[str, Any], kind: type[DownscaleError], line: str
) -> None:
    content = recipe_content(tmp_path)
    for key, value in change.items():
        merge = isinstance(value, dict) and key in ("data", "output")
        content[key] = {**content[key], **value} if merge else value
    with pytest.raises(kind, match=line) as caught:
        train(parse_training(content))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_all_missing_targets_are_one_line(tmp_path: Path) -> None:
    ds = downscale.sample.open("north_america").load()
    ds.assign(tas=ds.tas.where(False)).to_netcdf(tmp_path / "nan.nc")
    content = recipe_content(tmp_path)
    content["data"] |= {"pairs": [{"fine": str(tmp_path / "nan.nc")}], "statics": []}
    with pytest.raises(InputError, match=r"nan.nc: expected values to learn from, received missing ones only"):
        train(parse_training(content))


def test_a_training_that_diverges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected finite losses, errors and weights, received .*; try a"):
        train(tiny_recipe(tmp_path, steps=40, round=20, learning_rate=1e30, clip=None, schedule="constant", warmup=0))


def test_the_command_trains_tells_and_refuses(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text(json.dumps(recipe_content(tmp_path, steps=2, round=2, logger=None)))
    dry = command("train", file, "--dry-run")
    assert dry.status == 0
    assert "18 maps train" in dry.out
    assert not list(tmp_path.rglob("*.safetensors"))
    said = command("train", file)
    assert said.status == 0, said.err
    assert said.err == ""
    assert f"wrote {tmp_path / 'model.safetensors'}" in said.out
    file.write_text(json.dumps({**recipe_content(tmp_path), "trainin": {}}))
    refusal = command("train", file)
    assert refusal.status == 2
    assert "did you mean 'training'" in refusal.complaint


def test_prepare_trains_nothing_and_fits_the_model(tmp_path: Path) -> None:
    made = prepare(tiny_recipe(tmp_path))
    assert made.spec.outputs[0].units == "K"
    assert made.advice.startswith("the coarse fields are averages of the truth")
    assert not list(tmp_path.iterdir())


@given(steps=st.integers(1, 300), per_round=st.integers(1, 50), kill=st.integers(0, 300))
def test_rounds_add_up_to_the_steps_wherever_they_are_cut(steps: int, per_round: int, kill: int) -> None:
    how, progress, rounds = Training(steps=steps, round=per_round), Progress(), []
    while not has_ended(progress, how):
        left = remaining_steps(progress, how)
        assert left > 0
        if progress.step <= kill < progress.step + left:
            # Killed in the midst of a round, and gone on with from a state.
            progress.step, progress.done = kill, progress.done + kill - progress.step
            kill = -1
            left = remaining_steps(progress, how)
        progress.step, progress.done = progress.step + left, progress.done + left
        rounds.append(progress.step)
        progress.record_score(1.0)
    assert rounds == [*range(per_round, steps, per_round), steps]


@given(share=st.floats(0, 1), kind=st.sampled_from(["one_cycle", "cosine", "constant"]), warmup=st.floats(0, 0.9))
def test_the_rate_stays_within_its_top_and_is_continuous(share: float, kind: Any, warmup: float) -> None:
    how = Training(learning_rate=0.5, schedule=kind, warmup=warmup, steps=1)
    assert 0 < learning_rate(share, how) <= 0.5
    assert learning_rate(min(share, warmup), how) <= learning_rate(warmup, how) == pytest.approx(0.5)
    if kind != "constant" and share > warmup:
        assert learning_rate(share, how) >= learning_rate(1.0, how)


def test_time_and_steps_both_count() -> None:
    how = Training(steps=100, max_time=10)
    assert fraction_done(Progress(step=20, seconds=5.0), how) == 0.5
    assert fraction_done(Progress(step=80, seconds=5.0), how) == 0.8
    assert has_ended(Progress(step=80, seconds=11.0), how)
