"""`python generate_compose.py ...`: `saggar compose ...`, under the name that documents use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from saggar.cli import main

if __name__ == "__main__":
    sys.exit(main(["compose", *sys.argv[1:]]))
