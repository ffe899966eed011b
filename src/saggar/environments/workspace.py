"""
The workspace: where what is built for one endpoint is kept from one worker of it to the next.

A worker that RunPod starts says whose it is in RUNPOD_ENDPOINT_ID, and has the volume of its owner
mounted. Endpoints do not share what they have built; without the variable there is one workspace.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from saggar.errors import UsageError

VARIABLE: Final = "RUNPOD_ENDPOINT_ID"
VOLUME: Final = Path("/runpod-volume")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def workspace(cache: Path, environ: Mapping[str, str] = os.environ, volume: Path = VOLUME) -> Path:
    """
    The folder for layers: of this endpoint, on the volume where there is one; else the cache.

    Raises:
        UsageError: The variable is no name that a folder could have.
    """
    endpoint = environ.get(VARIABLE, "")
    if not endpoint:
        return cache
    if not _NAME.fullmatch(endpoint):
        raise UsageError(f"{VARIABLE}: wanted letters, digits, - and _, found {endpoint!r:.60}")
    kept = volume / "saggar" if os.access(volume, os.W_OK | os.X_OK) else cache
    folder = kept / "endpoints" / endpoint
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
