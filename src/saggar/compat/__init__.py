"""Doors of others: one file for each foreign protocol. They translate, and hold no state."""
