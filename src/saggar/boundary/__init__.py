"""What both sides of the wall need: frames, plans, orders, system calls."""
