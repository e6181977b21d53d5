"""Samples per second of a learned model in training and inference, for each upsampling layer, on the available device.

Run from anywhere, with the package's Python and the extra "train":

    python benchmarks/training.py [--quick] [--device auto] [--precision 32|bf16] [--batch 32] [--write docs/speed.md]

A model with ``conservative`` stages, whose kernels are constrained at every step, is compared with the same model with
plain ``ConvTranspose2d`` (``transposed``) and the other upsampling layers. A sample is a patch of 24 x 24 coarse cells,
x4. Training is a step of the optimiser: forward, loss, backward, update. Inference is a forward pass as in the engine,
including the constraint. All variants are timed in turn, round by round.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Taken, command_of, in_turn, machine, speed, table, write_section

WAYS = ("transposed", "conservative", "resize", "shuffle")
CELLS, FACTOR = 24, 4


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks and few rounds, to test the script")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--batch", type=int, help="patches per batch (32, quick: 4)")
    parser.add_argument("--rounds", type=int, help="timed rounds (10, quick: 3)")
    parser.add_argument("--folder", type=Path, help="not used: nothing is written but the page")
    parser.add_argument("--write", type=Path)
    chosen: Any = parser.parse_args()
    import torch

    from downscale.engine.device import pick_device

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    device = pick_device(chosen.device)
    batch, rounds = chosen.batch or (4 if chosen.quick else 32), chosen.rounds or (3 if chosen.quick else 10)
    width = 16 if chosen.quick else 64
    calls = {}
    for way in WAYS:
        calls[f"training, {way}"], calls[f"use, {way}"] = calls_of(way, width, batch, device, chosen.precision)
    text = page(in_turn(calls, rounds), batch, width, device, chosen.precision)
    print(text)
    if chosen.write is not None:
        write_section(chosen.write, "training", command_of(), text)
    return 0


def calls_of(
    way: str, width: int, batch: int, device: Any, precision: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a training step and a forward pass, each of which waits for the device."""
    import numpy as np
    import torch

    from downscale.fields.aggregate import Aggregation
    from downscale.nn.conv_transpose import freeze_kernels
    from downscale.nn.learned import Learned
    from downscale.nn.spec import ModelSpec, Variable

    torch.manual_seed(0)
    # The network of the bundled temperature model, except for its width.
    options = {"width": width, "depth": 4, "fine_width": max(width // 2, 8), "fine_depth": 1, "upsampling": way}
    spec = ModelSpec("residual", (FACTOR, FACTOR), (Variable("tas", "K"),), options=options, constraint="additive")
    model = Learned(spec).to(device)
    shares = np.full(CELLS * FACTOR, 1 / FACTOR)
    cells = Aggregation(shares, shares, FACTOR, FACTOR)
    x = torch.randn(batch, 1, CELLS, CELLS, device=device)
    proposal = cells.broadcast_to_fine(x)
    truth = proposal + torch.randn_like(proposal)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def train() -> float:
        model.train()
        optimiser.zero_grad(set_to_none=True)
        with mixed:
            loss = ((model(x, proposal, cells) - truth) ** 2).mean()
        loss.backward()
        optimiser.step()
        # Reading a number waits for the device.
        return float(loss.detach()) + float(next(model.parameters()).detach().reshape(-1)[0])

    # The forward pass of the engine, with precomputed kernels.
    ready = freeze_kernels(model).eval()

    def use() -> float:
        with torch.no_grad(), mixed:
            return float(ready(x, proposal, cells).reshape(-1)[-1])

    return train, use


def page(found: dict[str, Taken], batch: int, width: int, device: Any, precision: str) -> str:
    """Return the table with a description of the run."""
    rows = []
    for way in WAYS:
        cells = [way]
        for what in ("training", "use"):
            own, plain = found[f"{what}, {way}"], found[f"{what}, transposed"]
            cells += [f"{batch / own.median:.3g}", "-" if way == "transposed" else speed(plain, own)]
        rows.append(cells)
    head = ("upsampling", "training, samples/s", "to transposed", "inference, samples/s", "to transposed")
    how = f"{batch} patches of {CELLS} x {CELLS} cells, x{FACTOR}; width {width}; precision {precision}"
    return f"{machine()}\n\n{how}; on {name_of(device)}.\n\n{table(head, rows)}"


def name_of(device: Any) -> str:
    """Return a readable name of the device."""
    from downscale.engine.device import device_names

    names = device_names()
    return names[1] if device.type != "cpu" and len(names) > 1 else str(device)


if __name__ == "__main__":
    sys.exit(main())
