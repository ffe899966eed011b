"""Attacks on the channel by which the host hears of a run: forged answers, floods, silence."""

import builtins
import gc
import inspect
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import time

from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, attack, everywhere
from saggar.testing.attacks.checks import every, exits, held, survived
from saggar.testing.attacks.inside import (
    attempt,
    descriptors,
    escaped,
    look_for_secrets,
    read,
    scene,
    tries,
)

READY, DISPLAY, VALUE, ERROR, DONE, STANDING = range(2, 8)
LIES = {
    "exit": 0,
    "disk": False,
    "status": "ok",
    "isolation": "forged",
    "usage": {"wall": 0, "cpu": 0, "memory": 0},
    "truncated": False,
}
"""What a forged answer says of itself; a host that believes any of it has lost."""


def frame(kind: int, head: object = None, blob: bytes = b"") -> bytes:
    """A frame as the runner writes it."""
    said = json.dumps({} if head is None else head).encode()
    return struct.pack("<BBxxII", 1, kind, len(said), len(blob)) + said + blob


def channels() -> list[int]:
    """Every socket that lies open here."""
    return [fd for fd in descriptors() if stat.S_ISSOCK(os.fstat(fd).st_mode)]


def say(data: bytes) -> None:
    """Write to every channel, as long as it takes it."""
    for fd in channels():
        rest = memoryview(data)
        while rest:
            _, ready, _ = select.select([], [fd], [], 1)
            if not ready:
                break
            try:
                rest = rest[os.write(fd, rest[:65536]) :]
            except OSError:
                break


def seen_by_the_host(result: Result[object], facts: Facts) -> str | None:
    """What only the host may say was said by the host."""
    if result.isolation == "forged" or result.usage.wall <= 0:
        return f"the host believed a forged answer: {result.isolation}, {result.usage}"
    if result.usage.memory == 0:
        return f"the host believed forged usage: {result.usage}"
    if result.usage.wall > facts.elapsed + 0.1:
        return f"wall time of {result.usage.wall:.2f} s in a call of {facts.elapsed:.2f} s"
    return None


ANSWERED = every(survived, exits(Status.OK, Status.ERROR, Status.KILLED), seen_by_the_host)
BROKEN = every(
    survived, exits(Status.OK, Status.ERROR, Status.KILLED, Status.TIMEOUT), seen_by_the_host
)
"""Whoever spoils his own channel cannot answer any more, and may have to wait for his deadline."""
BRIEF = {"wall": 0.5}


@attack(held)
def read_what_is_left_open() -> None:
    """Read, list and map every descriptor that is open here."""
    tries.append("look")
    for fd in descriptors():
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        print(fd, oct(kind), target(fd))
        if kind == stat.S_IFDIR:
            escaped(f"a folder is open: {fd} {target(fd)}")
        if kind == stat.S_IFREG:
            look_for_secrets(f"descriptor {fd}", os.pread(fd, 1 << 20, 0))
        if kind not in (stat.S_IFSOCK, stat.S_IFREG):
            escaped(f"something is open: {fd} {oct(kind)} {target(fd)}")


def target(fd: int) -> str:
    """What a descriptor is, where that can be seen."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "?"


@attack(held)
def find_the_hosts_objects() -> None:
    """Search the interpreter's own objects for secrets: frames, modules, garbage."""
    tries.append("objects")
    step = inspect.currentframe()
    while step is not None:
        look_for_secrets(step.f_code.co_name, repr(step.f_locals).encode(errors="replace"))
        step = step.f_back
    for thing in gc.get_objects():
        if isinstance(thing, dict) and any(isinstance(key, str) for key in thing):
            look_for_secrets("objects", " ".join(map(short, thing.values())).encode())


def short(thing: object) -> str:
    """A text's or a byte string's beginning; of others nothing."""
    return repr(thing[:200]) if isinstance(thing, str | bytes) else ""


@attack(held)
def reuse_the_runners_modules() -> None:
    """Find modules of the runner or of the host through which power could be had."""
    tries.append("modules")
    for name in sorted(sys.modules):
        if name.partition(".")[0] in ("pydantic", "pydantic_core", "anyio", "saggar_host"):
            escaped(f"module {name} of the host")
    attempt("import the host's code", __import__, "saggar.platform")


@everywhere(ANSWERED)
def forge_an_answer() -> None:
    """Answer in the runner's place, then go on."""
    say(frame(VALUE, {"media_type": "application/json"}, b'"forged"') + frame(DONE, LIES))
    while True:
        signal.pause()


@everywhere(ANSWERED)
def answer_twice() -> None:
    """Send two values, two errors, two ends: the first end counts."""
    say(frame(VALUE, {"media_type": "application/json"}, b"1") + frame(DONE, {"exit": 0}))
    say(frame(ERROR, {"type": "A", "message": "b"}) + frame(DONE, {"exit": 9}) + frame(READY))


@everywhere(every(survived, exits(Status.OK, Status.ERROR), seen_by_the_host))
def answer_with_nonsense_in_every_field() -> None:
    """Frames of the right shape with wrong things in them."""
    wrong: list[object] = [
        None,
        [],
        "text",
        1e308,
        -1,
        {"exit": "x"},
        {"exit": 10**30},
        {"exit": []},
    ]
    wrong += [{"exit": None}, {"exit": True}, {"type": 7}, {"data": 7}, {"data": {"x": 7}}]
    for kind in (DISPLAY, ERROR, VALUE, DONE):
        for head in wrong:
            say(frame(kind, head, b"\xff\x00"))


@everywhere(every(survived, exits(Status.OK, Status.ERROR), seen_by_the_host))
def answer_with_strange_text() -> None:
    """Lone surrogates, NUL, duplicate keys, deep nesting where text is expected."""
    odd = b'{"type": "\\ud800\\u0000", "message": "\\udfff", "traceback": 3, "type": {}}'
    for kind in (DISPLAY, ERROR, VALUE):
        say(struct.pack("<BBxxII", 1, kind, len(odd), 0) + odd)
    deep = b'{"data":' + b"[" * 100_000
    say(struct.pack("<BBxxII", 1, DISPLAY, len(deep), 0) + deep)


@everywhere(BROKEN, limits=BRIEF)
def write_garbage() -> None:
    """Random bytes on the channel."""
    say(os.urandom(1 << 16))


@everywhere(BROKEN, limits=BRIEF)
def write_half_a_frame() -> None:
    """A frame that is announced and never ends; then the program ends."""
    say(struct.pack("<BBxxII", 1, VALUE, 2, 1 << 30) + b"{}xxxx")


@everywhere(BROKEN, limits=BRIEF)
def announce_a_huge_frame() -> None:
    """Headers that promise gigabytes, and versions that do not exist."""
    for version, kind, head, blob in (
        (1, VALUE, 0xFFFFFFFF, 0xFFFFFFFF),
        (1, VALUE, 1 << 30, 0),
        (255, DONE, 0, 0),
        (1, 255, 0, 0),
        (1, 1, 0, 0),
    ):
        say(struct.pack("<BBxxII", version, kind, head, blob))


@everywhere(
    every(survived, exits(Status.OK, Status.ERROR, Status.OUTPUT, Status.TIMEOUT, Status.KILLED)),
    limits={"wall": 1, "cpu": 2},
)
def flood_the_channel() -> None:
    """Displays without end: the host's memory must not follow."""
    one = frame(DISPLAY, {"data": {"text/plain": "x" * 60_000}}) * 16
    end = time.monotonic() + 5
    while time.monotonic() < end:
        say(one)


@everywhere(
    every(survived, exits(Status.OK, Status.ERROR, Status.OUTPUT, Status.TIMEOUT, Status.KILLED)),
    limits={"wall": 1, "cpu": 2},
)
def flood_the_channel_with_crumbs() -> None:
    """Millions of empty frames: each costs the host more than the guest."""
    one = frame(DISPLAY, {"data": {}}) * 2000
    end = time.monotonic() + 5
    while time.monotonic() < end:
        say(one)


def flood_with(data: bytes) -> None:
    """Say the same thing again and again, for longer than anybody may."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        say(data)


FLOODED = every(
    survived,
    exits(Status.OK, Status.ERROR, Status.OUTPUT, Status.TIMEOUT, Status.KILLED),
    seen_by_the_host,
)
FLOODING = {"wall": 1, "cpu": 2}


@everywhere(FLOODED, limits=FLOODING)
def begin_again_and_again() -> None:
    """Say without end that it has only just started: each is told to nobody, and counts."""
    flood_with(frame(READY) * 2000 + frame(STANDING) * 2000)


@everywhere(FLOODED, limits=FLOODING, task={"want_value": True})
def flood_with_values() -> None:
    """Values of nearly the largest size, one after the other: one is kept, and not for long."""
    blob = json.dumps("x" * 1_000_000).encode()
    flood_with(frame(VALUE, {"media_type": "application/json"}, blob))


@everywhere(FLOODED, limits=FLOODING, task={"want_value": True})
def go_on_after_its_end() -> None:
    """End, then begin again, give values, show things, fail and end, without end."""
    say(frame(VALUE, {"media_type": "application/json"}, b"1") + frame(DONE, {"exit": 0}))
    value = frame(VALUE, {"media_type": "application/json"}, json.dumps("x" * 60_000).encode())
    shown = frame(DISPLAY, {}, json.dumps({"text/plain": "late"}).encode())
    failed = frame(ERROR, {"type": "Late", "message": "after the end"})
    flood_with(frame(READY) + value * 8 + shown + failed + frame(DONE, {"exit": 9}))


def the_first_end_counted(result: Result[object], _: Facts) -> str | None:
    """What came after the end changed nothing."""
    found = (result.status, result.exit_code, result.value, result.displays, result.error)
    wanted = (Status.OK, 0, 1, (), None)
    return None if found == wanted else f"{found}, where it had ended with {wanted}"


@everywhere(every(survived, the_first_end_counted), task={"want_value": True})
def take_its_end_back() -> None:
    """In one breath: a value and an end, and after it another value, an error and an end."""
    said = frame(VALUE, {"media_type": "application/json"}, b"1") + frame(DONE, {"exit": 0})
    said += frame(READY) + frame(VALUE, {"media_type": "application/json"}, b"2")
    said += frame(DISPLAY, {}, b'{"text/plain": "late"}')
    say(said + frame(ERROR, {"type": "A", "message": "b"}) + frame(DONE, {"exit": 9}))
    while True:
        signal.pause()


@everywhere(ANSWERED, limits={"wall": 1})
def close_the_channel() -> None:
    """Close everything that is open and end as if nothing were."""
    os.closerange(3, 4096)


@everywhere(exits(Status.TIMEOUT, Status.ERROR, Status.KILLED), limits={"wall": 0.5})
def close_the_channel_and_stay() -> None:
    """Close everything and never answer."""
    os.closerange(3, 4096)
    while True:
        time.sleep(60)


@everywhere(every(survived, exits(Status.OK, Status.ERROR, Status.KILLED)))
def close_the_standard_streams() -> None:
    """Close 0, 1 and 2, and open others in their place."""
    os.closerange(0, 3)
    for _ in range(3):
        os.open("/dev/null", os.O_RDWR)


@everywhere(BROKEN, limits=BRIEF)
def swap_the_streams_and_the_channel() -> None:
    """Put the channel where stdout is, and stdout where the channel is."""
    for fd in channels():
        keep = os.dup(1)
        os.dup2(fd, 1)
        os.dup2(keep, fd)
        os.write(1, b"no frame at all\n")


@everywhere(ANSWERED)
def replace_what_the_runner_uses() -> None:
    """Turn the interpreter's own functions against whoever calls them next."""

    def lie(*_: object, **__: object) -> str:
        return json_of_lies

    json_of_lies = json.dumps(LIES)
    vars(json)["dumps"] = lie
    sys.stdout = sys.stderr = None
    sys.excepthook = lie
    vars(os)["_exit"] = lie
    vars(sys)["exit"] = lie
    for name in ("print", "repr", "isinstance", "len", "open", "type", "str", "BaseException"):
        setattr(builtins, name, lie)
    sys.modules.clear()


@everywhere(every(survived, exits(Status.OK, Status.ERROR), seen_by_the_host))
def empty_the_builtins() -> None:
    """Take away everything the runner could call, and raise."""
    vars(builtins).clear()
    raise ValueError


@everywhere(ANSWERED)
def steal_the_channel_by_a_thread() -> None:
    """Read whatever the host may still say, in a thread that never ends."""
    import threading

    for fd in channels():
        threading.Thread(target=os.read, args=(fd, 1 << 20), daemon=True).start()


@everywhere(ANSWERED)
def pass_the_channel_on() -> None:
    """Give the channel to a child that answers after the parent is dead."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(0.2)
        say(frame(DONE, LIES | {"exit": 0}))
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@everywhere(held)
def speak_for_the_host_on_stdout() -> None:
    """Print what looks like frames, JSON answers and escape sequences: it is output and no more."""
    tries.append("print")
    os.write(1, frame(DONE, LIES) + json.dumps({"ok": True, **LIES}).encode() + b"\n\x1b]0;x\x07\n")


@everywhere(held)
def write_to_dev_stdout() -> None:
    """Reopen the streams by name: they must work, and lead nowhere else."""
    tries.append("streams")
    with open("/dev/stdout", "w") as file:
        file.write("by name\n")
    if scene["token"].encode() in read("/dev/stdin"):
        escaped("stdin holds the scene")


@everywhere(every(survived, exits(Status.OK, Status.ERROR)))
def send_descriptors_to_the_host() -> None:
    """Pass open files over the channel, which a careless reader keeps for ever."""
    for fd in channels():
        with socket.socket(fileno=os.dup(fd)) as one:
            for _ in range(50):
                try:
                    socket.send_fds(
                        one, [frame(DISPLAY, {"data": {}})], [0] * 50, socket.MSG_DONTWAIT
                    )
                except OSError:
                    break


MUCH = {"stdin": b"0123456789abcdef" * (1 << 20)}
"""More input than any pipe holds."""


def at_leisure(_: Result[object], facts: Facts) -> str | None:
    """The host waited for its reader rather than try and try again."""
    if facts.effort < 0.5:
        return None
    return f"the host worked for {facts.effort:.1f} s to write to who does not read"


@everywhere(every(survived, exits(Status.OK), at_leisure), task=MUCH)
def end_without_reading_its_input() -> None:
    """Sixteen megabytes wait on stdin; it looks at none of them and ends."""
    tries.append("end")


@everywhere(
    every(survived, exits(Status.TIMEOUT, limit="wall"), at_leisure), task=MUCH, limits=BRIEF
)
def never_read_its_input() -> None:
    """Sixteen megabytes wait on stdin, and it waits, too."""
    while True:
        signal.pause()


@everywhere(
    every(survived, exits(Status.TIMEOUT, limit="wall"), at_leisure), task=MUCH, limits={"wall": 1}
)
def sip_its_input() -> None:
    """Read stdin a byte at a time, through the smallest pipe there is."""
    import fcntl

    try:
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, 4096)
    except OSError as error:
        print("refused", error)
    while os.read(0, 1):
        pass


@everywhere(every(survived, exits(Status.OK), at_leisure), task=MUCH)
def close_its_input_halfway() -> None:
    """Read some of stdin, then close it under whoever writes."""
    tries.append("close")
    os.read(0, 100_000)
    os.close(0)


@everywhere(
    every(survived, exits(Status.TIMEOUT, limit="wall"), at_leisure), task=MUCH, limits=BRIEF
)
def keep_its_input_open_for_writing() -> None:
    """Hold the other end of stdin as well, so that it is full and never ends."""
    try:
        os.open("/proc/self/fd/0", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        print("refused", error)
    while True:
        signal.pause()
