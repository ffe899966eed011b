"""
`python -m saggar.runpod`: a RunPod worker, started as its SDK's own scripts are.

On RunPod, which says so in its variables, the SDK takes jobs and gives them to `handler`; elsewhere
its two local flags work without it.
"""

import os
import sys

from saggar.compat.runpod import FunctionRequest, FunctionResponse, handler

__all__ = ["FunctionRequest", "FunctionResponse", "handler", "main"]


def main() -> int:
    """Take jobs, or do what the command line says."""
    if os.environ.get("RUNPOD_WEBHOOK_GET_JOB"):
        return take_jobs()
    from saggar.cli.main import main as command

    return command(["runpod", *sys.argv[1:]])


def take_jobs() -> int:
    """What the SDK does with a handler; for good."""
    try:
        import runpod  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        sys.stderr.write("saggar: taking jobs from RunPod needs its SDK: pip install runpod\n")
        return 70
    runpod.serverless.start({"handler": handler})
    return 0


if __name__ == "__main__":
    sys.exit(main())
