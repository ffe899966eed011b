"""The door over HTTP: who may come in, what an error looks like, and the application itself."""

from importlib.util import find_spec

from saggar.errors import UsageError


def require() -> None:
    """
    What HTTP is answered with is installed; called before any other module of this room is loaded.

    Raises:
        UsageError: It is not; says how to install it.
    """
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise UsageError(f"the HTTP server needs {name}: pip install 'saggar[server]'")
