"""Allocates without end, and touches every page."""

eaten = []
while True:
    eaten.append(b"x" * (16 << 20))
    print(f"{16 * len(eaten)} MiB", flush=True)
