"""Later: runs that wait in a queue, what becomes of their failures, and where their results lie."""
