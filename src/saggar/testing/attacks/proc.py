"""Attacks by way of the kernel's files: sysctls, cgroups, other processes' knobs."""

import os
import resource
import signal

from saggar.model.policy import Rung
from saggar.testing.attacks.attack import Facts, attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import (
    attempt,
    escaped,
    flush,
    outsiders,
    pids,
    read,
    scene,
    touch,
    tries,
)


@attack(held)
def write_system_settings() -> None:
    """Open for writing what steers the whole machine."""
    for name in (
        "sysrq-trigger",
        "sys/kernel/core_pattern",
        "sys/kernel/modprobe",
        "sys/kernel/panic",
        "sys/kernel/randomize_va_space",
        "sys/kernel/hostname",
        "sys/kernel/ns_last_pid",
        "sys/fs/binfmt_misc/register",
        "sys/fs/suid_dumpable",
        "sys/vm/drop_caches",
        "sys/vm/overcommit_memory",
        "sys/net/ipv4/ip_forward",
        "sys/net/core/somaxconn",
        "sys/user/max_user_namespaces",
        "irq/default_smp_affinity",
        "acpi/wakeup",
    ):
        attempt(name, touch, f"/proc/{name}")


@attack(held)
def write_to_devices_settings() -> None:
    """Open for writing what steers devices and power, below /sys."""
    for name in (
        "kernel/uevent_helper",
        "kernel/mm/transparent_hugepage/enabled",
        "kernel/debug/sched/features",
        "kernel/security/lockdown",
        "power/state",
        "module/printk/parameters/time",
        "fs/pstore/attack",
    ):
        attempt(name, touch, f"/sys/{name}")


@attack(held)
def change_own_cgroup() -> None:
    """Find cgroup files that can be written: leave the group, lift its limits, run on release."""
    tries.append("walk")
    tops = {"/sys/fs/cgroup", "/dev/cgroup", "/cgroup"}
    try:
        mounts = read("/proc/self/mountinfo", 1 << 20).decode().splitlines()
    except OSError as error:
        print("refused", error)
        mounts = []
    tops |= {line.split()[4] for line in mounts if " - cgroup" in line}
    for top in tops:
        for folder, _, names in os.walk(top):
            for name in names:
                path = f"{folder}/{name}"
                if os.access(path, os.W_OK):
                    attempt(f"write {path}", touch, path)
            attempt(f"group in {folder}", os.mkdir, f"{folder}/{scene['token']}")


@attack(held)
def spare_itself_from_the_oom_killer() -> None:
    """Lower its own chance of being killed for memory, and raise everybody else's."""
    attempt("spare itself", set_score, "self", -1000)
    for who in outsiders():
        attempt(f"offer {who}", set_score, who, 999)


def set_score(who: object, score: int) -> None:
    """Write oom_score_adj of a process."""
    with open(f"/proc/{who}/oom_score_adj", "w") as file:
        file.write(str(score))


@attack(held)
def raise_own_limits() -> None:
    """Raise the hard limits it was started with, and those of others."""
    for name in (
        "NPROC",
        "NOFILE",
        "FSIZE",
        "CORE",
        "CPU",
        "DATA",
        "AS",
        "MEMLOCK",
        "NICE",
        "RTPRIO",
    ):
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        attempt(f"raise {name}", resource.setrlimit, number, (hard + 1, hard + 1))
    for who in outsiders():
        attempt(f"limit {who}", resource.prlimit, who, resource.RLIMIT_NOFILE, (9, 9))


@attack(held)
def jump_the_queue() -> None:
    """Take real-time scheduling or a better priority, and slow others down."""
    for policy in (os.SCHED_FIFO, os.SCHED_RR):
        attempt(f"policy {policy}", os.sched_setscheduler, 0, policy, os.sched_param(50))
    attempt("niceness", os.nice, -5)
    for who in outsiders():
        attempt(f"slow {who}", os.setpriority, os.PRIO_PROCESS, who, 19)
        attempt(f"move {who}", os.sched_setaffinity, who, {0})
        attempt(f"idle {who}", os.sched_setscheduler, who, os.SCHED_IDLE, os.sched_param(0))


@attack(held, stopped_from=Rung.JAIL)
def see_other_processes() -> None:
    """List processes: nothing but its own may be there."""
    tries.append("list")
    for who in outsiders():
        attempt(f"signal nothing to {who}", os.kill, who, 0)
    seen = [*pids()]
    if len(seen) > 4:
        escaped(f"{len(seen)} other processes: {seen[:20]}")


@attack(held)
def leave_a_core_file() -> None:
    """Crash with dumps wished for: memory must not be written anywhere."""
    attempt("wish for a core", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)))
    tries.append("crash")
    flush()
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    status = os.waitpid(pid, 0)[1]
    if os.WCOREDUMP(status) or any("core" in name for name in os.listdir(".")):
        escaped("a core file")


POWERS = ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")


def seen_from_outside(_: object, facts: Facts) -> str | None:
    """The kernel's own word on an attacking process: no power, filtered, in a world of its own."""
    if not facts.seen:
        return "no process of the attack was seen from outside"
    shared = {"mnt", "pid", "net", "ipc", "uts", "user"} if facts.rung >= Rung.JAIL else set()
    if facts.rung is Rung.CONTAINER:
        shared -= {"user"}  # the engine's choice for all its containers (userns-remap), not ours
    for one in facts.seen:
        wanted = {"NoNewPrivs": "1", "Seccomp": "2"}
        wanted |= dict.fromkeys(POWERS[: 5 if shared else 4], "0" * 16)
        found = {name: one.status.get(name) for name in wanted}
        wrong = {name: value for name, value in found.items() if value != wanted[name]}
        if wrong:
            return f"from outside: {wrong}"
        if "0" in f"{one.status.get('Uid')} {one.status.get('Gid')}".split():
            return f"runs as root of the host: {one.status.get('Uid')}"
        if shared & one.shared:
            return f"shares namespaces with the host: {sorted(shared & one.shared)}"
    return None


@attack(seen_from_outside)
def be_looked_at() -> None:
    """Wait, so that the host can see whether the walls really stand around it."""
    tries.append("wait")
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    print("WAITING", flush=True)
    signal.pause()
