"""The command line: arguments, commands and exit status. Commands import heavy libraries only when they run."""

# Help lists commands in the order of these imports.
from downscale.cli import runs, files, learning  # noqa: F401, I001
from downscale.cli.app import app
from downscale.cli.main import main

__all__ = ["app", "main"]
