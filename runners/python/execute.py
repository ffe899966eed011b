# ruff: noqa: INP001
"""
The module that the runner calls. This one has no function yet.

Put a file of your own over /app/execute.py that defines, sync or async:

    def execute_function(input):
        return {"count": len(input["values"])}
"""
