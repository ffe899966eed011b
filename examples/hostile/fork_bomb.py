"""Forks without end, in every child, and does not stop when it is refused."""

import os

first, told = os.getpid(), False
while True:
    try:
        os.fork()
    except OSError as error:
        if os.getpid() == first and not told:
            told = True
            print(f"refused: {error.strerror}; going on", flush=True)
