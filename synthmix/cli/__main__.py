"""``python -m synthmix.cli``."""

import sys

from synthmix.cli import main

if __name__ == "__main__":
    sys.exit(main())
