"""
The docker driver: a container of the engine's around the same runner that stands in a jail.

What it does not stop: a hole in the kernel that host and container share, or in the engine, which
is root. Whoever may speak to the engine is root on this machine; a guest never may.
"""

from saggar.drivers.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
