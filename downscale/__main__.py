"""``python -m downscale`` is the command ``downscale``."""

import sys

from downscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
