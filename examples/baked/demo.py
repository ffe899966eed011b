"""
Bake `app.py`, make an image of it, call what is in it by name, and try to have it run other code.

Needs a container engine and the worker's image, `make build-cpu`. Ends with 0 when the calls were
answered and the code was refused.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shlex import quote
from typing import Any

APP = Path(__file__).with_name("app.py")
IMAGE = "saggar-example-felt"
DOCKER = os.environ.get("DOCKER", "docker")
BY_NAME = {"function_name": "felt", "args": [-5, 10], "serialization_format": "json"}
WRONG = {**BY_NAME, "args": ["cold", 10]}
INLINE = {**BY_NAME, "function_code": "def felt(*args): return open(*args).read()"}


def baked(folder: str) -> None:
    """The application as an image."""
    words = ["bake", str(APP), "-o", f"{folder}/baked_code", "--image", IMAGE]
    print("$ saggar bake app.py -o baked_code --image", IMAGE)
    ran = subprocess.run(
        [sys.executable, "-m", "saggar", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    ours = ("class", "function", IMAGE)
    print(*(line for line in ran.stdout.splitlines() if line.startswith(ours)), sep="\n")


def asked(request: dict[str, Any]) -> dict[str, Any]:
    """What a container of it answers, without a network."""
    said = json.dumps({"input": request})
    print(f"\n$ docker run --network none {IMAGE} python handler.py --test_input {quote(said)}")
    words = [DOCKER, "run", "--rm", "--network", "none", IMAGE, "python", "handler.py"]
    ran = subprocess.run([*words, "--test_input", said], capture_output=True, check=False)
    answer: dict[str, Any] = json.loads(ran.stdout)
    print("answer:" if answer["success"] else "refused:", answer["json_result"] or answer["error"])
    return answer


def main() -> int:
    """The tour."""
    with tempfile.TemporaryDirectory() as folder:
        baked(folder)
    try:
        answered = asked(BY_NAME)["json_result"] == -13.7
        judged = not asked(WRONG)["success"]
        refused = "came with code" in asked(INLINE)["error"]
    finally:
        subprocess.run([DOCKER, "image", "rm", "--force", IMAGE], capture_output=True, check=False)
    return 0 if answered and judged and refused else 1


if __name__ == "__main__":
    sys.exit(main())
