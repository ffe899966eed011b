"""What a program finds around it: packages, preloads, host paths, another interpreter."""

import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field

from saggar.model.paths import absolute, is_inside, printable
from saggar.model.value import Value

USER: Final = 1000
"""Whom a container runs as, unless somebody else is named."""
_RESERVED: Final = ("/proc", "/sys", "/dev")
# The start of a PEP 508 requirement; what follows is for the installer to judge.
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:(?P<at>@)\s*(?P<url>\S+)(?:\s.*)?|[=<>!~;(].*)?"
)
# As the engines have it: a registry, a path, a tag, a digest; or the digest of an image alone.
_PART: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    r"sha256:[0-9a-f]{12,64}|"
    rf"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
# As Debian's policy has them; a version or an architecture may follow.
_SYSTEM_PACKAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?::[a-z0-9-]*[a-z0-9])?(?:=[0-9][A-Za-z0-9.+~:-]*)?"
)
_MODEL_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_MODEL: Final = re.compile(
    rf"{_MODEL_PART}(?:/{_MODEL_PART})?(?:@[A-Za-z0-9_][A-Za-z0-9_./+-]{{0,254}})?"
)
_REMOTE: Final = ("https://", "git+https://")
# An installer prefers a file of such a name to the package.
_ARCHIVES: Final = (".whl", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz")


def _target(path: str) -> str:
    path = absolute(path)
    if path == "/" or any(is_inside(path, reserved) for reserved in _RESERVED):
        raise ValueError(f"nothing can be mounted at {path!r}")
    return path


def _package(requirement: str) -> str:
    """
    A requirement that can only name a package.

    It ends up on an installer's command line, on the host: an option, a second line, or the
    path of a project (whose build would run there) must not get through.
    """
    requirement = printable(requirement.strip(), "a package")
    found = _REQUIREMENT.fullmatch(requirement) if len(requirement) <= 1000 else None
    if found is None or re.search(r"\s-", requirement):
        raise ValueError(f"wanted a package such as 'numpy==2.*', found {requirement!r:.80}")
    if found["name"].lower().endswith(_ARCHIVES):
        raise ValueError(f"wanted the name of a package, found that of a file: {requirement!r:.80}")
    if found["at"] and not found["url"].startswith(_REMOTE):
        raise ValueError(f"a package comes from an index or an https URL only: {requirement!r:.80}")
    return requirement


def _system_package(package: str) -> str:
    """The name of a package of Debian's: nothing that apt takes for an option, a file or a wish."""
    package = printable(package.strip(), "a system package")
    if len(package) > 200 or not _SYSTEM_PACKAGE.fullmatch(package):
        raise ValueError(f"wanted a system package such as 'ffmpeg', found {package!r:.80}")
    return package


def _model(model: str) -> str:
    """A model as the hub names it; a name becomes a folder, so it must stay one."""
    name = model.partition("@")[0]
    if not _MODEL.fullmatch(model) or ".." in model or "--" in name or model.endswith("/"):
        raise ValueError(f"wanted a model such as 'org/name' or 'org/name@v1', found {model!r:.80}")
    return model


def _module(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"wanted a module such as 'numpy.linalg', found {name!r:.80}")
    return name


def _image(image: str) -> str:
    if not _REFERENCE.fullmatch(image):
        raise ValueError(
            f"wanted an image such as 'saggar/runner-node:latest', found {image!r:.80}"
        )
    return image


def _python(python: str) -> str:
    python = printable(python, "python")
    if python.startswith("/"):
        # It is run on the host, to ask for its version: nothing else in /usr may be.
        if not re.fullmatch(r"python[0-9.]*t?|pypy[0-9.]*", python.rpartition("/")[2]):
            raise ValueError(
                f"wanted an interpreter such as '/usr/bin/python3', found {python!r:.80}"
            )
        return absolute(python)
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", python):
        raise ValueError(
            f"wanted an absolute path or a version such as '3.12', found {python!r:.80}"
        )
    return python


class Mount(Value):
    """A folder or file of the host that the program finds at `target`."""

    source: Annotated[str, AfterValidator(absolute)]
    target: Annotated[str, AfterValidator(_target)]
    read_only: bool = True


class Environment(Value):
    """What is installed around a program. The empty one has the standard library only."""

    packages: tuple[Annotated[str, AfterValidator(_package)], ...] = ()
    """Requirements, installed once into a layer of their own."""
    system_packages: tuple[Annotated[str, AfterValidator(_system_package)], ...] = ()
    """Packages of the host's distribution, unpacked into a layer; those it has are left out."""
    models: tuple[Annotated[str, AfterValidator(_model)], ...] = ()
    """Models of the hub, "org/name" or "org/name@revision", fetched before the program runs."""
    preload: tuple[Annotated[str, AfterValidator(_module)], ...] = ()
    """Modules that are imported before the program arrives."""
    python: Annotated[str, AfterValidator(_python)] | None = None
    """Another interpreter: its absolute path or its version. None: the one that runs Saggar."""
    host_packages: bool = False
    """Whether the packages installed beside Saggar are visible, read-only."""
    mounts: tuple[Mount, ...] = ()
    root: Annotated[str, AfterValidator(absolute)] | None = None
    """A folder of the host to use as the root directory instead of the host's /usr."""
    image: Annotated[str, AfterValidator(_image)] | None = None
    """The image of the container to run in. None: the one of the settings."""
    user: Annotated[int, Field(ge=1, lt=65_534)] = USER
    """Whom a container runs as; never root."""
    workdir: Annotated[str, AfterValidator(absolute)] | None = None
    """Where the image's own program starts. None: where the image says."""
    writable_root: bool = False
    """Whether a container may write over its image; no limit on the disk holds there."""

    @classmethod
    def host(cls) -> Self:
        """The packages installed beside Saggar, and nothing else."""
        return cls(host_packages=True)
