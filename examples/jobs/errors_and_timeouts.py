"""
What can go wrong with a program, told apart: each is a result, none is an exception here.

An exception of ours (a broker that does not answer) is raised instead.
"""

from saggar import CodeTools

PROGRAMS = {
    "an exception": ("1 / 0", 10),
    "a mistake in the code": ("print('no end", 10),
    "its own exit code": ("import sys; sys.exit(3)", 10),
    "an endless loop": ("while True: pass", 1),
    "too much memory": ("x = bytearray(8 << 30)", 10),
    "the network": ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", 10),
}


def main() -> None:
    """Each with its status, what it returned, and the last line of what it complained."""
    for name, (code, timeout) in PROGRAMS.items():
        found = CodeTools.execute_code(code, timeout=timeout, async_mode=True)
        last = (found["stderr"] or "").strip().splitlines()[-1:] or [found["message"]]
        print(f"{name}: success={found['success']} status={found['status']}", end="")
        print(f" returncode={found['returncode']}: {last[0]}")


if __name__ == "__main__":
    main()
