"""Typed functions: what goes in and what comes out has a type, and a JSON Schema, on each side."""
