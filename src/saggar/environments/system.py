"""
System packages: Debian's, resolved and fetched by apt and unpacked into a layer of their own.

Nothing of the host is touched, so no privilege is needed: apt works in folders of ours, with the
host's sources and keys, and knows from dpkg what is installed already. The scripts of a package
do not run; what they would have arranged is arranged here where it can be (folders of libraries,
links), and is missing where it cannot (users, services, caches).
"""

import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from saggar.environments import commands, locks, tree
from saggar.environments.commands import Command
from saggar.environments.recipe import Stale, Workshop
from saggar.errors import InvalidTask, PrepareFailed
from saggar.model.plan import Layer

INSIDE: Final = "/opt/saggar/system"
STATUS: Final = "/var/lib/dpkg/status"
HELPER: Final = "/usr/lib/apt/apt-helper"
STREAMS: Final = 4
"""Downloads at once: what nala is used for, without the rights that it takes."""
LARGE: Final = (
    *("build-essential", "cmake", "cuda-toolkit", "curl", "g++", "gcc", "git"),
    *("libssl-dev", "nvidia-cuda-dev", "python3-dev", "wget"),
)
"""Packages that bring much along, by what their names hold."""
_DAY: Final = 86400.0
_PACKAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?::[a-z0-9-]*[a-z0-9])?(?:=[0-9][A-Za-z0-9.+~:-]*)?"
)
_LINE: Final = re.compile(
    r"'(?P<uri>[^']+)' (?P<file>\S+\.deb) (?P<size>[0-9]+) (?P<hash>SHA[0-9]+:\S+)"
)
_ENVIRONMENT: Final = (
    *("PATH", "LANG", "TMPDIR", "HOME"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# They are of one piece with the loader, which is the host's.
_TOO_DEEP: Final = ("libc6", "libc-bin", "ld.so")
_OPTIONS: Final = """\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State "{home}/state";
Dir::State::status "{status}";
Dir::Cache "{home}/cache";
Dir::Log "{home}/log";
Debug::NoLocking "true";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::Retries "1";
"""
# What the operator's configuration says of how to fetch; what it says to do afterwards stays out.
_FETCHING: Final = re.compile(
    r"(?:Acquire::(?!Languages|IndexTargets)|APT::(?:Architectures?|Default-Release)\b)"
)
_SEARCHED: Final = {
    "PATH": ("usr/local/bin", "usr/bin", "bin", "usr/games", "usr/sbin", "sbin"),
    "PERL5LIB": ("usr/share/perl5", "usr/lib/{triplet}/perl5/*"),
    "PKG_CONFIG_PATH": ("usr/share/pkgconfig", "usr/lib/{triplet}/pkgconfig"),
    "CPATH": ("usr/include", "usr/include/{triplet}"),
    "LIBRARY_PATH": ("usr/lib/{triplet}", "usr/lib"),
}


def normalised(packages: Iterable[str]) -> tuple[str, ...]:
    """
    The same packages, sorted, each once.

    Raises:
        InvalidTask: One of them is not a name as Debian has them.
    """
    names = sorted(set(packages))
    for name in names:
        # A - at the end asks apt to remove it; a + may be of the name, as in g++.
        if not _PACKAGE.fullmatch(name):
            raise InvalidTask(f"wanted a system package such as 'ffmpeg', found {name!r:.80}")
    return tuple(names)


def state() -> tuple[int, ...]:
    """What changes whenever something is installed on this machine or removed from it."""
    try:
        found = os.stat(STATUS)
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def distribution() -> str:
    """
    What a package is made for: distribution, release and architecture of this machine.

    Raises:
        PrepareFailed: It is none that has apt and dpkg.
    """
    if not os.path.exists(STATUS) or not os.path.exists(HELPER):
        raise PrepareFailed(
            "system packages need apt and dpkg, which this machine does not have; an image that"
            " has them installed can be named instead"
        )
    about = platform.freedesktop_os_release()
    return f"{about['ID']} {about.get('VERSION_ID', 'unstable')} {platform.machine()}"


async def all_there(names: Sequence[str]) -> bool:
    """Whether dpkg has all of them installed, in the versions that are asked for."""
    shown = "-f=${db:Status-Status} ${Package} ${Version}\\n"
    words = ["dpkg-query", "-W", shown, "--", *(name.partition("=")[0] for name in names)]
    found = await commands.attempt(Command(words, commands.inherited("PATH"), timeout=20))
    installed = {
        (words[1], words[2])
        for line in found.output.decode(errors="replace").splitlines()
        if (words := line.split()) and words[0] == "installed"
    }
    return found.code == 0 and all(_is_among(name, installed) for name in names)


def _is_among(name: str, installed: set[tuple[str, str]]) -> bool:
    package, _, version = name.partition("=")
    package = package.partition(":")[0]
    return any(one == package and version in {"", found} for one, found in installed)


async def install_here(names: Sequence[str], at: Workshop) -> None:
    """
    Install packages on this machine itself, scripts and all: where it is a container of ours.

    Raises:
        PrepareFailed: We are not its root, there is no such package, or no mirror that answers.
    """
    at.progress(f"installing {', '.join(names)}")
    if _is_large(names) and shutil.which("nala"):
        with suppress(PrepareFailed):  # apt itself has the last word, and says why not
            await _install_with("nala", names, at)
            return
    await _install_with("apt-get", names, at)


async def _install_with(tool: str, names: Sequence[str], at: Workshop) -> None:
    given = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    env = commands.inherited(*_ENVIRONMENT, given=given)
    for words in (("update",), ("install", "-y", "--no-install-recommends", "--", *names)):
        command = Command([tool, *words], env, timeout=at.timeout, keeps=(at.turn,))
        await commands.run(command, lambda log: _complaint(log, names))


def _is_large(names: Sequence[str]) -> bool:
    """Whether downloading side by side, as nala does, is worth its start."""
    return any(large in name for large in LARGE for name in names)


@dataclass(frozen=True, slots=True)
class SystemPackages:
    """Packages of this machine's distribution, with what they need and the machine lacks."""

    names: tuple[str, ...]
    made_for: str
    home: Path
    """Where apt keeps what it knows."""
    kind: str = "system"

    @property
    def surroundings(self) -> str:
        """What is missing depends on what there is."""
        return f"{self.made_for} {tree.sha256(STATUS)}"

    async def resolve(self, at: Workshop) -> str:
        """
        The lock: what has to be fetched, from where, with size and hash; empty if nothing has.

        Raises:
            PrepareFailed: There is no such package, or no mirror that answers.
        """
        at.progress(f"resolving {', '.join(self.names)}")
        async with locks.turn(self._home() / "turn", lambda: None):
            fresh = await self._update(at, _DAY)
            said = await self._missing(at)
            if said.code != 0 and not fresh:
                # What was not there yesterday may be there today.
                await self._update(at, 0)
                said = await self._missing(at)
        if said.code != 0:
            raise PrepareFailed(_complaint(said.log, self.names), said.log)
        found = [line for line in said.output.decode().splitlines() if line.startswith("'")]
        for line in found:
            if not _LINE.fullmatch(line):
                raise PrepareFailed(f"a package without a hash is not fetched: {line}", said.log)
            if line.partition(" ")[2].startswith(tuple(f"{name}_" for name in _TOO_DEEP)):
                raise PrepareFailed(
                    f"{', '.join(self.names)} would need another C library than this machine's;"
                    " an image that has it installed can be named instead",
                    said.log,
                )
        return "".join(f"{line}\n" for line in sorted(found))

    async def install(self, lock: str, at: Workshop) -> None:
        """
        Fetch what a lock names and unpack it into `site`.

        Raises:
            Stale: The mirror has another version by now.
            PrepareFailed: It cannot be fetched, or is not what the lock says.
        """
        wanted = [found for line in lock.splitlines() if (found := _LINE.fullmatch(line))]
        size = sum(int(one["size"]) for one in wanted)
        at.progress(f"downloading {len(wanted)} system packages, {size / 1e6:.0f} MB")
        archives = at.folder / "archives"
        archives.mkdir(exist_ok=True)
        await self._fetch(wanted, archives, at)
        at.progress(f"unpacking {', '.join(self.names)}")
        site = at.folder / "site"
        site.mkdir()
        for one in wanted:
            await self._unpack(archives / one["file"], site, at)
        _tidy(site)

    def layer(self, site: Path, digest: str) -> Layer:
        """Programs and libraries, found by those variables that list folders of them."""
        triplet = f"{platform.machine()}-linux-gnu"
        search = {
            name: tuple(
                str(found.relative_to(site))
                for folder in folders
                for found in sorted(site.glob(folder.format(triplet=triplet)))
                if not (site / folder.partition("/")[0]).is_symlink()
            )
            for name, folders in _SEARCHED.items()
        }
        search["LD_LIBRARY_PATH"] = tuple(dict.fromkeys(_libraries(site, triplet)))
        if (site / "usr/share").is_dir():
            search["XDG_DATA_DIRS"] = ("usr/share", "/usr/local/share", "/usr/share")
        return Layer(
            path=str(site),
            target=f"{INSIDE}/{digest[:16]}",
            system=True,
            search=tuple((name, folders) for name, folders in search.items() if folders),
        )

    def _home(self) -> Path:
        for name in ("state/lists/partial", "cache/archives/partial", "log"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        return self.home

    async def _update(self, at: Workshop, age: float) -> bool:
        """Learn what the mirrors have, if what is known is older; whether that was needed."""
        mark = self.home / "state" / "updated"
        if mark.exists() and time.time() - mark.stat().st_mtime < age:
            return False
        at.progress("asking the package mirrors")
        await self._configure()
        await commands.run(
            self._apt(at, "apt-get", "update"),
            lambda log: f"the package mirrors cannot be reached: {_last(log)}",
        )
        mark.touch()
        return True

    async def _configure(self) -> None:
        """The operator's own configuration of apt, without what it would do to the machine."""
        dump = Command(["apt-config", "dump"], env=commands.inherited("PATH"), timeout=20)
        said = await commands.run(dump, lambda _: "apt-config does not answer")
        lines = said.output.decode(errors="replace").splitlines()
        kept = [line for line in lines if _FETCHING.match(line)]
        options = _OPTIONS.format(home=self.home, status=STATUS)
        tree.write(self.home / "apt.conf", "\n".join([*kept, options]))

    async def _missing(self, at: Workshop) -> commands.Said:
        words = ("install", "--print-uris", "--no-install-recommends", "-qq", "--", *self.names)
        return await commands.attempt(self._apt(at, "apt-get", *words))

    async def _fetch(self, wanted: Sequence[re.Match[str]], archives: Path, at: Workshop) -> None:
        """By apt's own hand, which knows mirrors and proxies and checks every hash."""
        shares = [share for n in range(STREAMS) if (share := wanted[n::STREAMS])]
        failures: list[PrepareFailed] = []

        async def fetch(share: Sequence[re.Match[str]]) -> None:
            words = [w for one in share for w in (one["uri"], archives / one["file"], one["hash"])]
            command = self._apt(at, HELPER, "download-file", *map(str, words))
            try:
                await commands.run(command, lambda log: f"the download failed: {_last(log)}")
            except PrepareFailed as exc:
                failures.append(exc)

        async with anyio.create_task_group() as streams:
            for share in shares:
                streams.start_soon(fetch, share)
        for failure in failures:
            if re.search(r"\b404\b", failure.log):
                (self.home / "state" / "updated").unlink(missing_ok=True)
                raise Stale(str(failure), failure.log)
            raise failure

    async def _unpack(self, archive: Path, site: Path, at: Workshop) -> None:
        env = commands.inherited("PATH")
        command = Command(
            ["dpkg-deb", "--extract", str(archive), str(site)],
            env=env,
            timeout=at.timeout,
            keeps=(at.turn,),
        )
        await commands.run(command, lambda _: f"{archive.name} cannot be unpacked")

    def _apt(self, at: Workshop, *argv: str) -> Command:
        env = commands.inherited(
            *_ENVIRONMENT,
            given={
                "APT_CONFIG": str(self.home / "apt.conf"),
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
            },
        )
        return Command(argv, env=env, cwd=self.home, timeout=at.timeout, keeps=(at.turn,))


def _merge(site: Path) -> None:
    """What is at the top goes below usr where this machine has it so."""
    for name in _MERGED:
        found = site / name
        if os.path.islink(f"/{name}") and found.is_dir() and not found.is_symlink():
            for path, about in list(tree.walk(str(found))):
                place = site / "usr" / os.path.relpath(path, site)
                if stat.S_ISDIR(about.st_mode):
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, place)
            tree.delete(found)


def _tidy(site: Path) -> None:
    """All of it ours; links that lead into the layer stay in it; neither file nor link goes."""
    _merge(site)
    for path, found in list(tree.walk(str(site))):
        if os.geteuid() == 0 and found.st_uid != 0:
            os.chown(path, 0, 0, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            target = os.readlink(path)
            inside = site / target.lstrip("/")
            if target.startswith("/") and os.path.lexists(inside):
                os.unlink(path)
                os.symlink(os.path.relpath(inside, os.path.dirname(path)), path)
        elif not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            os.unlink(path)


def _libraries(site: Path, triplet: str) -> Iterator[str]:
    """Folders of shared libraries, those of their own last: alternatives are chosen by a script."""
    below = []
    for folder in (f"usr/lib/{triplet}", f"lib/{triplet}", "usr/lib", "lib"):
        if not (site / folder).is_dir() or (site / folder.partition("/")[0]).is_symlink():
            continue
        with os.scandir(site / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if any(".so." in entry.name or entry.name.endswith(".so") for entry in found):
            yield folder
        below += [
            f"{folder}/{entry.name}"
            for entry in found
            if entry.is_dir(follow_symlinks=False) and _holds_libraries(entry.path)
        ]
    yield from below


def _holds_libraries(folder: str) -> bool:
    # With a version in the name: without one it is a plugin, which its program finds by itself.
    return any(re.match(r"lib.+\.so\.[0-9]", name) for name in os.listdir(folder))


def _complaint(log: str, names: Sequence[str]) -> str:
    if missing := re.findall(r"Unable to locate package (\S+)", log):
        return f"there is no system package {', '.join(missing)} in this machine's sources"
    return f"{', '.join(names)} cannot be installed: {_last(log)}"


def _last(log: str) -> str:
    """What apt says is wrong, without what follows from it."""
    lines = [line[2:].strip() for line in log.splitlines() if line.startswith("E:")]
    return lines[0] if lines else (log.strip().splitlines() or ["no reason was given"])[-1]
