"""Run the command line: ``python -m downscale`` is the same as ``downscale``."""

import sys

from downscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
