"""Where dependencies come from: layers built once, mounted read-only."""
