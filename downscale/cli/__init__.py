"""The command line: parse, call, say (everything heavy is imported inside the commands, so that help is instant)."""

# Commands appear in help in the order of these imports.
from downscale.cli import runs, restoring, judging, weights, learning  # noqa: F401, I001
from downscale.cli.app import app
from downscale.cli.main import main

__all__ = ["app", "main"]
