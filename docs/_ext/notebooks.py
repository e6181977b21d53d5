"""Pages from the notebooks of the repository, copied into ``docs/notebooks`` at the start of a build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def copy_notebooks(app: Sphinx) -> None:
    """Copy changed notebooks, and remove deleted ones."""
    there, here = Path(app.srcdir).parent / "notebooks", Path(app.srcdir) / "notebooks"
    here.mkdir(exist_ok=True)
    names = {path.name for path in there.glob("*.ipynb")}
    for path in here.glob("*.ipynb"):
        if path.name not in names:
            path.unlink()
    for name in names:
        old, new = here / name, there / name
        if not old.exists() or old.read_bytes() != new.read_bytes():
            shutil.copyfile(new, old)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hook that runs before pages are read."""
    app.connect("builder-inited", copy_notebooks)
    return {"parallel_read_safe": True}
