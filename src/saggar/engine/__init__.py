"""The run: starting, timing, judging and gathering guest code."""
