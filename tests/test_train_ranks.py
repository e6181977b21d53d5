"""Several processes: each draws noise of its own, agrees on the time, and reads no more than it must."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from run_process import ROOT
from training_recipes import recipe_content

from downscale.models.checkpoint import load
from downscale.training.predict import random_generator
from downscale.training.tasks import TRAIN, VALIDATE

PROBE = """
import json, os, sys
import torch, torch.distributed
from pathlib import Path
from downscale.training import tasks
from downscale.training.fit import train
from downscale.training.schema import parse_training

content = json.loads(Path(sys.argv[1]).read_text())
folder, drawn, rates = Path(sys.argv[1]).parent, [], []
plain, count = tasks.predict, {"objects": 0, "reduced": 0}

def predict(learned, batch, members=2, generator=None):
    if learned.training:
        drawn.append(float(torch.randn(1, generator=generator.clone_state())))
    return plain(learned, batch, members, generator)

def counted(name, kind):
    real = getattr(torch.distributed, name)
    def called(*given, **named):
        count[kind] += 1
        return real(*given, **named)
    setattr(torch.distributed, name, called)

tasks.predict = predict
for name in ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"):
    counted(name, "objects")
counted("all_reduce", "reduced")
step = tasks.Downscaling.step

def started(self, batch, number):
    rates.append(self.optimizers[0].param_groups[0]["lr"])
    return step(self, batch, number)

tasks.Downscaling.step = started
train(parse_training(content), say=lambda line: None)
rank = int(os.environ.get("LOCAL_RANK", 0))
(folder / f"rank{rank}.json").write_text(json.dumps({"drawn": drawn, "rates": rates, **count}))
"""


def numbers(*place: int) -> list[float]:
    return torch.randn(4, generator=random_generator(7, *place)).tolist()


def test_noise_is_that_of_its_place_and_of_no_other() -> None:
    places = [(use, step, rank) for use in (TRAIN, VALIDATE) for step in range(4) for rank in range(3)]
    made = [tuple(numbers(*place)) for place in places]
    assert len(set(made)) == len(places)
    assert made == [tuple(numbers(*place)) for place in places]
    torch.randn(5)
    assert numbers(TRAIN, 0, 0) == list(made[0])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"steps": 24}, {"max_time": "12 s", "steps": 400}], ids=["steps", "time"])
def test_two_processes_draw_other_noise_and_take_the_same_steps(tmp_path: Path, limit: dict[str, Any]) -> None:
    content = recipe_content(tmp_path, **{"round": 12, "batch": 4, "loss": {"crps": 1.0}, "devices": 2,
                                          "strategy": "ddp", "seed": 3, **limit})  # fmt: skip
    content["network"] = {**content["network"], "noise": [1, 1]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    (tmp_path / "probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "probe.py"), str(tmp_path / "r.json")], capture_output=True, text=True,
        check=False, timeout=500, cwd=ROOT, env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    # Clocks are compared every ten steps: no run ends before.
    assert len(ranks[0]["drawn"]) == len(ranks[1]["drawn"]) >= 10
    assert not set(ranks[0]["drawn"]) & set(ranks[1]["drawn"])
    # One answer to how far the training is, whatever the clocks say.
    assert ranks[0]["rates"] == ranks[1]["rates"]
    assert ranks[0]["objects"] == ranks[1]["objects"]
    steps = len(ranks[0]["drawn"])
    if "max_time" not in limit:
        assert ranks[0]["objects"] <= 4
    assert ranks[0]["objects"] < max(steps // 2, 5)
    record = load(tmp_path / "model.safetensors")[1]
    assert record.skill["steps"] == steps
    assert record.data_hash.startswith("sha256:")
