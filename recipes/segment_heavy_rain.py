"""Masks of heavy rain at four times the resolution: Tversky, Dice and cross-entropy trained alike, judged elsewhere.

    python recipes/segment_heavy_rain.py FMI.nc OPERA.nc --judge OTHER_RADAR.nc --steps 300 --out heavy_rain

Trains one U-Net for each loss, with the same seed and the same steps, and prints scores on a radar that none has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import downscale
from downscale.diagnostics.events import EventCounts
from downscale.train.fit import train
from downscale.train.schema import parse_training

LOSSES = ("bce", "dice", "tversky", "focal")
COLUMNS = ("csi", "recall", "precision", "f1", "f2", "bias", "brier")


def recipe(loss: str, files: list[str], asked: argparse.Namespace) -> dict:
    select = {} if asked.times is None else {"time": list(asked.times)}
    options = {"name": "tversky", "alpha": 0.3, "beta": 0.7, "gamma": 4 / 3} if loss == "focal" else {"name": loss}
    return {
        "title": f"heavy rain, {loss}", "task": "segmentation",
        "event": {"name": "heavy_rain", "above": asked.above, "units": "mm h-1", "loss": options, "decision": "csi"},
        "data": {"factor": 4, "outputs": [{"name": "precip", "transform": "log1p", "bounds": [0, None]}],
                 "pairs": [{"fine": file, "select": select} for file in files],
                 "validation": {"fraction": 0.2, "gap": "30 minutes", "patches": 48}},
        "patches": {"size": 24, "quiet": 0.05},
        "network": {"name": "unet", "options": {"width": 16, "levels": 2, "depth": 1, "fine_width": 8}},
        "training": {"steps": asked.steps, "round": max(asked.steps // 2, 1), "batch": 8, "learning_rate": 2e-3,
                     "seed": 0, "accelerator": "cpu", "devices": 1, "ema": 0.98},
        "output": {"path": str(asked.out / f"{loss}.safetensors"), "overwrite": True},
    }  # fmt: skip


def judged(coarse, truth, method, above: float) -> dict[str, float]:
    """Scores of a mask: of a model at its own decision threshold, of a kernel where its field is above the value."""
    fine = downscale.downscale(coarse, 4, method=method, check="skip")
    if "heavy_rain" not in fine:
        made = fine["precip"].values
        return EventCounts.of(np.where(np.isnan(made), np.nan, made >= above), truth).scores()
    chance = fine["heavy_rain_probability"].values
    return EventCounts.of(chance, truth).scores(fine["heavy_rain"].attrs["decision_threshold"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", help="fine radar files to learn from")
    parser.add_argument("--judge", required=True, help="a fine radar file that none learns from")
    parser.add_argument("--above", type=float, default=10.0, help="mm h-1 from which on rain is heavy")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("heavy_rain"), help="folder of the models")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--times", nargs=2, metavar=("FIRST", "LAST"), help="learn from these times only")
    parser.add_argument("--every", type=int, default=4, help="judge every so many maps")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    fine = downscale.open_dataset(asked.judge)[["precip"]].isel(time=slice(None, None, asked.every)).load()
    # Whole coarse cells; how many there are need not be divisible by what the levels of the network halve.
    fine = fine.isel({dim: slice(0, fine.sizes[dim] // 4 * 4) for dim in ("y", "x")})
    coarse = downscale.coarsen(fine, 4)
    field = fine["precip"].values
    truth = np.where(np.isnan(field), np.nan, field >= asked.above)
    methods = {"bilinear": "bilinear", "sobolev": "sobolev"}
    for loss in asked.losses:
        methods[loss] = str(train(parse_training(recipe(loss, asked.files, asked)), say=lambda line: None))
    print(f"event: >= {asked.above:g} mm h-1, {np.nanmean(truth):.2%} of the fine cells of {Path(asked.judge).name}")
    print("| |", " | ".join(COLUMNS), "|\n|---|" + "---|" * len(COLUMNS))
    for name, method in methods.items():
        scores = judged(coarse, truth, method, asked.above)
        print(f"| {name} |", " | ".join(f"{scores[column]:.4f}" for column in COLUMNS), "|", flush=True)


if __name__ == "__main__":
    main()
