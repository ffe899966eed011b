"""What runs inside: standard library and `boundary` only, never imported by the host."""
