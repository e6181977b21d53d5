"""Checkpoints: the same model after loading, and one line for each file that is none; nothing in a file is run."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import command
from safetensors.torch import load_file, save_file

from downscale.errors import InputError, OutputError
from downscale.models.checkpoint import FORMAT_VERSION, MANY, Record, load, load_record, save, write_tensors
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec, Variable
from downscale.training.card import card
from downscale.training.progress import Progress, moments_of, read_state, restore_moments, write_state

SPEC = ModelSpec(
    "residual", (2, 2), (Variable("pr", "mm h-1", "rainfall_rate", "log1p", 0.4, 0.8, 2.5, (0.0, None)),),
    statics=("orog",), options={"width": 8, "depth": 1}, constraint="bounded",
)  # fmt: skip
RECORD = Record(
    title="Rain", licence="CC BY 4.0", attribution=["A, CC BY 4.0"], data_hash="sha256:ab", versions={"torch": "2"},
    skill={"skill": 0.8, "step": 7, "steps": 9, "seconds": 3.0, "by_source": [
        {"source": "a.nc", "variable": "pr", "units": "mm h-1", "rmse": 0.8, "rmse_kernel": 1.0, "skill": 0.8}]},
)  # fmt: skip


@pytest.fixture
def model() -> Learned:
    torch.manual_seed(0)
    learned = Learned(SPEC)
    with torch.no_grad():
        for weight in learned.parameters():
            weight.normal_()
    return learned


@pytest.fixture
def file(tmp_path: Path, model: Learned) -> Path:
    return save(tmp_path / "m.safetensors", model, RECORD)


def texts_of(path: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return json.loads(stream.read(length))["__metadata__"]


def test_large_weights_may_be_stored_as_16_bit_numbers(model: Learned, tmp_path: Path, file: Path) -> None:
    half = save(tmp_path / "half.safetensors", model, RECORD, half=True)
    stored, again = load_file(half), load(half)[0].state_dict()
    large = [name for name, tensor in stored.items() if tensor.numel() >= MANY]
    assert large
    assert all((stored[name].dtype == torch.float16) == (name in large) for name in stored)
    assert half.stat().st_size < file.stat().st_size
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype
        rtol, atol = (5e-4, 1e-7) if name in large else (0, 0)
        torch.testing.assert_close(again[name], tensor, rtol=rtol, atol=atol)
    with torch.no_grad():
        next(weight for weight in model.parameters() if weight.numel() >= MANY).fill_(1e6)
    with pytest.raises(InputError, match="expected finite weights"):
        save(tmp_path / "large.safetensors", model, RECORD, half=True)
    assert not (tmp_path / "large.safetensors").exists()


def test_a_model_comes_back_as_it_went(file: Path, model: Learned) -> None:
    again, record = load(file)
    assert again.spec == SPEC
    assert record == RECORD
    assert not again.training
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert load_record(file) == (SPEC, RECORD)
    # Others may read what this user wrote.
    plain = file.with_name("plain")
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_nothing_is_left_of_a_file_that_could_not_be_written(model: Learned, tmp_path: Path) -> None:
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    with pytest.raises(InputError, match=r"expected finite weights in .*received NaN or infinite ones in 'network"):
        save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(model: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


def cut(share: float) -> Callable[[Path], None]:
    """Keep the first part of a file only."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def told(**changes: str | None) -> Callable[[Path], None]:
    """Change texts of the header."""

    def change(path: Path) -> None:
        texts = {**texts_of(path), **changes}
        save_file(load_file(path), path, metadata={k: v for k, v in texts.items() if v is not None})

    return change


def weighed(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Change weights."""

    def changed(path: Path) -> None:
        texts, state = texts_of(path), load_file(path)
        change(state)
        save_file(state, path, metadata=texts)

    return changed


def spec_with(**changes: Any) -> str:
    return json.dumps({**SPEC.to_dict(), **changes})


def first(state: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(state) if state[name].ndim > 1)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "expected an existing model, received .*check the path"),
    "truncated-weights": (cut(0.9), "expected a whole model, received .*cut short .*get it again"),
    "truncated-header": (cut(0.01), "expected a whole model, received .*cut short .*get it again"),
    "empty": (cut(0), "expected a model in safetensors format, received .* \\(0 bytes\\) of another kind"),
    "torch-save": (lambda path: torch.save({"w": torch.ones(3)}, path), "which is a zip archive, as torch.save writes"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x04\x95\x10" + bytes(7) + b"cos\nsystem\n." * 9), "is a pickle;"),
    "text": (lambda path: path.write_text("no model at all, but a text"), "of another kind; get the right file"),
    "no-json": (lambda path: path.write_bytes(struct.pack("<Q", 9) + b"not json!"), "damaged or cut short"),
    "huge-header": (lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + bytes(64)), "of another kind"),
    "deep-header": (lambda path: path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000), "damaged or cut short"),
    "deep-spec": (told(spec="[" * 100_000 + "]" * 100_000), "expected a model with a readable header"),
    "deep-record": (told(record='{"a":' * 300 + "1" + "}" * 300), "expected a model with a readable header"),
    "list-spec": (told(spec="[]"), "expected a model with a readable header"),
    "record-of-other-kinds": (told(record='{"sources": 3}'), "expected a model with a readable header"),
    "variables-of-other-kinds": (told(spec=spec_with(outputs=[3])), "expected a variable of outputs"),
    "no-version": (told(format_version="-1"), "of format -1; update"),
    "no-spec": (told(spec=None), "expected a model of this package, received .*weights alone do not describe"),
    "foreign": (told(format="pt"), "expected a model of this package"),
    "newer": (told(format_version=str(FORMAT_VERSION + 1)), f"of format {FORMAT_VERSION + 1}; update"),
    "network": (told(spec=spec_with(network="gan")), "expected network to be among .*received 'gan'"),
    "option": (told(spec=spec_with(options={"colour": 1})), "expected options of 'residual' among .*received 'colour'"),
    "key": (told(spec=spec_with(colour=1)), "expected the keys .*received 'colour'"),
    "unreadable": (told(spec="{"), "expected a model with a readable header"),
    "shape": (told(spec=spec_with(options={"width": 16, "depth": 1})), "expected weights '.*' of shape .*received"),
    "fewer": (weighed(lambda s: s.pop(first(s))), "received a file without 'network"),
    "more": (weighed(lambda s: s.update(extra=torch.ones(1))), "received a file with an unknown 'extra'"),
    "nan": (weighed(lambda s: s[first(s)].fill_(torch.nan)), "expected finite weights .*received NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "line"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_is_no_model_is_one_line(file: Path, spoil: Callable[[Path], Any], line: str) -> None:
    spoil(file)
    with pytest.raises(InputError, match=line) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)


def test_loading_runs_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Bomb(), tmp_path / "bomb.safetensors")
    with pytest.raises(InputError, match="never loaded"):
        load(tmp_path / "bomb.safetensors")
    assert not (tmp_path / "ran").exists()


def test_the_card_tells_what_a_user_must_know(file: Path) -> None:
    text = card(file)
    told = ("# Rain", "2 x 2", "cell, total by construction (bounded)", "mm h-1", "0 to", "| 0.800 |", "CC BY 4.0")
    for words in (*told, "log1p(x / 2.5)", "sha256:ab", "torch 2", "orog"):
        assert words in text
    said = command("inspect", file, "--card")
    assert said.status == 0
    assert said.out.strip() == text.strip()
    bare = save(file.with_name("bare.safetensors"), load(file)[0])
    assert "Not recorded" in card(bare)


Groups = dict[str, dict[str, torch.Tensor]]


def state_of(model: Learned) -> tuple[Groups, torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    weights, random = model.state_dict(), torch.get_rng_state()
    averages = {name: weight / 2 for name, weight in weights.items()}
    groups = {"weights": weights, "averages": averages, "moments": moments_of(optimizer), "random": {"": random}}
    return groups, optimizer


def test_a_state_comes_back_as_it_went(model: Learned, tmp_path: Path) -> None:
    (groups, optimizer), progress = state_of(model), Progress(step=3, best=0.5)
    write_state(tmp_path / "s", groups, progress, "abc")
    again, same = read_state(tmp_path / "s", "abc")
    assert same == progress
    for name, group in groups.items():
        assert group.keys() == again[name].keys()
        assert all(torch.equal(again[name][key], value) for key, value in group.items())
    other = torch.optim.AdamW(model.parameters(), lr=1e-3)
    restore_moments(other, again["moments"])
    for weight in model.parameters():
        mine, theirs = optimizer.state[weight], other.state[weight]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_state_of_something_else_is_refused(model: Learned, tmp_path: Path, file: Path) -> None:
    write_state(tmp_path / "s", state_of(model)[0], Progress(), "abc")
    with pytest.raises(InputError, match=r"expected the recipe, settings and data that .* was begun with"):
        read_state(tmp_path / "s", "other")
    with pytest.raises(InputError, match=r"expected a training state, received .* of another kind"):
        read_state(file, "abc")
    write_tensors(tmp_path / "t", {}, {"format": "downscale-training", "progress": "{", "origin": "abc"})
    with pytest.raises(InputError, match="expected a training state with a readable header"):
        read_state(tmp_path / "t", "abc")
