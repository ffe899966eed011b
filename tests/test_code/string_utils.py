"""The second file of the folder: all of them are loaded, in the order of their names."""


def greet(name):
    """A greeting."""
    return f"Hello, {name}!"


print("String utilities loaded")  # noqa: T201 - into the log of the instance
