"""How a wall is built: one driver, one file or folder; none imports another."""
