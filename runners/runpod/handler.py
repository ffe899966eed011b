"""What the worker's image runs: RunPod's jobs, or one event of the command line."""

import sys

from saggar.runpod import handler, main

__all__ = ["handler"]

if __name__ == "__main__":
    sys.exit(main())
