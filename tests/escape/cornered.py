"""
Start Python as somebody who is refused every namespace, as most container engines do it.

The kernel counts user namespaces in each user namespace: in one of our own the count can be set to
none, and everything else then needs a privilege that the exec takes away.
"""

import ctypes
import os
import sys

uid, gid = os.getuid(), os.getgid()
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) < 0:
    sys.exit(f"no user namespace to start from: {os.strerror(ctypes.get_errno())}")
for path, text in (
    ("/proc/self/setgroups", "deny"),
    ("/proc/self/uid_map", f"{uid} {uid} 1"),
    ("/proc/self/gid_map", f"{gid} {gid} 1"),
    ("/proc/sys/user/max_user_namespaces", "0"),
):
    with open(path, "w") as file:
        file.write(text)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
