"""The jail: a run behind the walls of the kernel itself, one file per facility."""
