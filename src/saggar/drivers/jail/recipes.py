"""
What to do where the walls cannot be built: one recipe for each surroundings, as plain text.

The README has the same ones with their reasons; `saggar doctor` prints these.
"""

from typing import Final

RECIPES: Final = {
    "docker": """\
The default profiles refuse namespaces and mounts and mask /proc. Start the container that runs
Saggar without them:

    docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined \\
        --security-opt apparmor=unconfined ...
""",
    "kubernetes": """\
The same as a pod's security context. Without a writable cgroup a watchdog outside keeps the
memory limit.

    spec:
      hostUsers: false
      containers:
        - securityContext:
            procMount: Unmasked
            seccompProfile: {type: Unconfined}
            appArmorProfile: {type: Unconfined}
""",
    "ubuntu": """\
Ubuntu 23.10 and later let a process without root make a user namespace, and then refuse mounts in
it. Allow them to one interpreter (its real path: readlink -f .venv/bin/python):

    sudo tee /etc/apparmor.d/saggar <<'PROFILE'
    abi <abi/4.0>,
    include <tunables/global>
    profile saggar /path/to/bin/python3* flags=(unconfined) {
      userns,
    }
    PROFILE
    sudo apparmor_parser -r /etc/apparmor.d/saggar
""",
    "cgroups": """\
Memory, processes and processor share are kept by the kernel where a cgroup may be written to. As
an ordinary user under systemd:

    systemd-run --user --scope -p Delegate=yes -- saggar run script.py
""",
}
"""By the name of the surroundings."""
