"""Every code block of the documentation runs, prints what the page says, and every page hangs together."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("_build", "generated", "notebooks", "_ext", "_templates")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*DOCS.rglob("*.md"), ROOT / "recipes" / "README.md", ROOT / "README.md"]
    if not set(MADE) & set(page.relative_to(ROOT).parts)
)
BLOCK = re.compile(r"(<!-- prints -->\n+)?^```(\S*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = ("python", "sh")
# Languages that are shown and not run; anything else needs a decision.
SHOWN = ("text", "yaml", "")


def blocks_of(page: str) -> list[dict[str, str]]:
    """The runnable blocks of a page in order, each with what it prints if the page says so."""
    found: list[dict[str, str]] = []
    for prints, language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if prints:
            assert language == "text", f"{page}: what a block prints is of language text"
            found[-1]["prints"] = text
        elif language in RUN:
            found.append({"language": language, "text": text})
    return found


RUNNABLE = [page for page in PAGES if page != "README.md" and blocks_of(page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_whether_it_runs(page: str) -> None:
    for _, language, _ in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert language in (*RUN, *SHOWN) or language.startswith("{"), language


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_can_be_read(page: str) -> None:
    for _, language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if language == "yaml":
            assert yaml.safe_load(text)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_every_block_runs_and_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    listed = tmp_path / "blocks.json"
    listed.write_text(json.dumps(blocks), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(listed)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    checker = doctest.OutputChecker()
    for block, result in zip(blocks, json.loads(listed.with_suffix(".result").read_text()), strict=False):
        assert not result["fault"], f"{block['text']}\n{result['fault']}\n{done.stderr}"
        if "prints" in block:
            how = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert checker.check_output(block["prints"], result["said"], how), f"{block['text']}\n{result['said']}"


def test_links_between_pages_and_to_pictures_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not target.startswith(("http", "mailto")):
                assert ((ROOT / page).parent / target).resolve().exists() or (
                    page.startswith("docs/") and ((ROOT / page).parent / f"{target}.md").exists()
                ), f"{page}: {target}"


def test_every_room_is_in_the_reference() -> None:
    """A new file or folder of the package shows up in the reference, or here with the reason why not."""
    unlisted = {"cli", "__main__", "__init__", "accessor"}  # a page of its own; nothing to call; the front door
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   downscale\.(\w+)", index, re.MULTILINE))
    parts = (ROOT / "downscale").iterdir()
    units = {path.stem for path in parts if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert units - unlisted <= listed
    import downscale

    assert set(downscale.__all__) - {"__version__"} <= listed


def test_the_reference_of_the_commands_names_every_option() -> None:
    pytest.importorskip("sphinx", reason="the directive needs Sphinx: pip install 'downscale-climate[docs]'")
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from commands import markdown_of
    finally:
        sys.path.pop(0)
    import typer.main

    from downscale.cli.main import app

    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        text = "\n".join(markdown_of(name, command))
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in text
