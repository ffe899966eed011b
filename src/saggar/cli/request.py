"""From the words of `saggar run` to a task and a policy."""

import os
import re
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from saggar.cli import inputs
from saggar.errors import InvalidTask, NotFound, UsageError
from saggar.model.codec import JSON, Payload
from saggar.model.environment import Environment
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.policy import Policy
from saggar.model.program import LANGUAGES, Inline, Program
from saggar.model.secrets import Secrets
from saggar.model.task import LARGEST_TASK, Task

OPTIONS = {
    "output": "output-limit",
    "packages": "package",
    "collect": "output",
    "files": "input",
    "args": "the program's arguments",
    "secrets": "secret",
}
"""Where an option is not called as its field is."""
FIELD = re.compile(r"\b(limits|policy|environment|program|task|file|inline)((?:\.\w+)+): ")
POLICY = re.compile(r"Policy\(([^()]*)\)")
CHOICE = re.compile(r"(isolation|network|best_effort)=('\w+'|\{[^}]*\})")


def request(
    options: Namespace, arguments: Sequence[str], ceiling: Policy | None = None
) -> tuple[Task, Policy]:
    """
    What is to run, and what it may touch: never more than `ceiling`.

    Raises:
        UsageError: The options contradict each other, or one of them cannot be.
    """
    check(options)
    with as_options():
        task = Task(
            program=program(options),
            input=payload(options),
            args=tuple(arguments),
            env=variables(options.env),
            secrets=tuple(vars(options).get("secret", ())),
            files=inputs.gather(options.input),
            collect=tuple(options.output),
            stdin=read_stdin() if options.stdin else b"",
            want_value=options.value,
        )
        wanted = policy(options, task.program.environment)
        return task, wanted if ceiling is None else wanted.within(ceiling)


def check(options: Namespace) -> None:
    """Options that cannot be said together, each with the way out."""
    command = vars(options).get("command", "saggar run")
    if options.code is not None and options.file is not None:
        raise UsageError(
            f"both -c and {options.file!r} are programs; the program's own arguments go after --"
        )
    if options.code is None and options.file is None:
        raise UsageError(
            "no program; put FILE or -c CODE first, before --input and --output:"
            f" {command} analyse.py --input data.csv"
        )
    if options.language == "command":
        raise UsageError(
            "a command is run from Python, with"
            f" {command.replace(' ', '.')}(saggar.Command(argv=(...,)));"
            " or from a program, with subprocess"
        )
    if options.stdin and options.file == "-":
        raise UsageError("stdin cannot be the program and its input; name a FILE, or use -c CODE")
    if options.entry_input is not None and options.entry is None:
        raise UsageError("--entry-input needs --entry NAME, the function to call with it")
    if given := [name for name in vars(options).get("secret", ()) if "=" in name]:
        name = given[0].partition("=")[0]
        raise UsageError(
            f"--secret: wanted a name such as {name!r:.60}, found a value behind it; everybody here"
            " sees a command line, so set the variable"
        )
    if options.value and options.entry is not None:
        raise UsageError("--value and --entry exclude each other; an entry's answer is the value")


def program(options: Namespace) -> Program:
    """The code and what it needs around it."""
    return Program(
        code=code(options),
        language=language(options),
        entry=options.entry,
        environment=environment(options),
    )


def language(options: Namespace) -> str:
    """The one that was named, or the one that the file's ending tells."""
    if options.language is not None:
        return str(options.language)
    return LANGUAGES.get(os.path.splitext(options.file or "")[1], "python")


def code(options: Namespace) -> Inline:
    """The program's text, from wherever it is."""
    if options.code is not None:
        return Inline(text=options.code, filename="main.py")
    if options.file == "-":
        return Inline(text=text(read_stdin(), "stdin"), filename="main.py")
    if os.path.isdir(options.file):
        raise UsageError(
            f"cannot read {options.file!r}: is a directory; name the file in it that is to run,"
            f" and give it the others with --input {options.file}"
        )
    content = inputs.read(options.file, LARGEST_TASK)
    return Inline(text=text(content, options.file), filename=os.path.basename(options.file))


def text(content: bytes, name: str) -> str:
    """Code is UTF-8; an editor's byte order mark is no part of it."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise InvalidTask(
            f"{name} is not UTF-8: {exc.reason} at byte {exc.start}, line {line};"
            " convert it first, as iconv -f LATIN1 -t UTF-8 does"
        ) from None


def read_stdin() -> bytes:
    """All of our stdin, if a task can carry it."""
    content = sys.stdin.buffer.read(LARGEST_TASK + 1)
    if len(content) > LARGEST_TASK:
        raise UsageError("stdin has more than 64 MiB; give a part of it, or a mount from Python")
    return content


def payload(options: Namespace) -> Payload:
    """The entry's input: JSON as it was typed, if it is that."""
    if options.entry_input is None:
        return Payload.none()
    import json

    try:
        json.loads(options.entry_input, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"--entry-input is not JSON: {exc}") from None
    return Payload(media_type=JSON, data=options.entry_input.encode())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} has no JSON form")


def variables(words: Sequence[str]) -> dict[str, str]:
    """The K=V among the words of --env."""
    pairs = (word.partition("=") for word in words if word != "host")
    found = {}
    for name, sign, value in pairs:
        if not sign:
            raise UsageError(f"--env: wanted K=V or the word host, found {name!r}")
        found[name] = value
    return found


def secrets(names: Sequence[str]) -> Secrets:
    """
    The values of --secret, from our own environment.

    Raises:
        NotFound: One of them is not set.
    """
    from saggar.config import SECRET, operators_secret

    found = {}
    for name in names:
        value = operators_secret(name)
        value = os.environ.get(name) if value is None else value
        if value is None:
            raise NotFound(
                f"--secret: neither {name} nor {SECRET}{name} is set here; set one of them"
            )
        found[name] = value
    return Secrets(found)


def environment(options: Namespace) -> Environment:
    """Packages, preloads, the interpreter."""
    return Environment(
        packages=tuple(options.package),
        preload=tuple(options.preload),
        image=options.image,
        python=None if options.python is None else interpreter(options.python),
        host_packages="host" in options.env,
    )


def interpreter(name: str) -> str:
    """A version as it is; a path or a program on PATH as an absolute path."""
    if re.fullmatch(r"[0-9.]+", name):
        return name
    if os.sep in name:
        return os.path.abspath(os.path.expanduser(name))
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.stat(path).st_mode & stat.S_IXUSR:
            return os.path.abspath(path)
    raise UsageError(f"--python: no {name!r} on PATH; name a version such as 3.12, or a path")


def policy(options: Namespace, environment: Environment) -> Policy:
    """
    What was asked for on a terminal, its owner may have: one option asks and allows.

    Whoever operates the machine narrows it through the settings.
    """
    said = {
        "limits": limits(options),
        "network": options.network,
        "isolation": options.isolation,
        "gpu": options.gpu,
        "best_effort": [name.replace("-", "_") for name in options.best_effort],
        "host_packages": environment.host_packages,
        "images": [environment.image] if environment.image else [],
        "mounts": [path] if (path := environment.python or "").startswith("/") else [],
    }
    return Policy(**{name: value for name, value in said.items() if value not in (None, [], False)})


def limits(options: Namespace) -> Limits:
    """The limits that were named; the others keep their defaults."""
    said = {name: getattr(options, option_of(name).replace("-", "_")) for name in LIMIT_NAMES}
    return Limits(**{name: value for name, value in said.items() if value is not None})


def driver(options: Namespace) -> str | None:
    """Who builds the walls: whoever was named; an image is a container's."""
    return options.driver or ("docker" if options.image else None)


def option_of(field: str) -> str:
    """What a field is called on the command line, without its dashes."""
    return OPTIONS.get(field, field).replace("_", "-")


@contextmanager
def as_options() -> Iterator[None]:
    """What the model says of its fields, said of options."""
    try:
        yield
    except InvalidTask as exc:
        raise InvalidTask(FIELD.sub(_respelled, str(exc)).removeprefix("task: ")) from None


def in_options(message: str) -> str:
    """A policy that a message proposes, as the options that ask for it."""
    return POLICY.sub(_as_words, message)


def _as_words(found: re.Match[str]) -> str:
    words = [
        f"--{option_of(field)} {name.replace('_', '-')}"
        for field, names in CHOICE.findall(found[1])
        for name in re.findall(r"'(\w+)'", names)
    ]
    return " ".join(words) or found[0]


def _respelled(found: re.Match[str]) -> str:
    room, path = found[1], found[2].split(".")[1:]
    if room == "file":
        return "--input: "
    if room == "inline":
        return "-c: "
    # Of a path such as limits.wall or program.environment.packages.0 the last name counts.
    name = next((part for part in reversed(path) if not part.isdecimal()), room)
    if room == "task" and path[0] in ("env", "args", "secrets"):
        name = path[0]
    if room == "limits" or name not in LIMIT_NAMES:
        name = option_of(name)
    return f"{name}: " if " " in name else f"--{name}: "
