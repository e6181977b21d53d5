"""Notebooks run from the first cell to the last, and are stored without what they printed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_stored(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert content["cells"][0]["cell_type"] == "markdown"
    assert "".join(content["cells"][0]["source"]).startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    drawn = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    if "maps" in path.read_text(encoding="utf-8"):
        assert drawn, "a notebook that draws shows figures"
    if path.stem == "artefacts":
        _require_cures("".join(each.get("text", "") for cell in notebook.cells for each in cell.get("outputs", ())))


def _require_cures(printed: str) -> None:
    """What the notebook says of its cures is what it printed."""
    index = [float(line.split("index")[1].split("dB")[0]) for line in printed.splitlines() if "index" in line]
    assert index[0] > index[1] + 10  # k = 5 beside k = 6
    assert index[2] > index[3]  # rough beside mended
    assert "the nearest good kernel_size is (6, 6)" in printed
