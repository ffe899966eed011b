"""What both sides of the wall need: the frames they speak, the plan they share, the system calls."""
