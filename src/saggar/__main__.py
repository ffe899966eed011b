"""`python -m saggar`: the same as `saggar`."""

import sys

from saggar.cli import main

if __name__ == "__main__":
    sys.exit(main())
