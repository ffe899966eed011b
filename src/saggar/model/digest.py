"""
One canonical digest for everything that is cached.

The same one serves the layer cache, idempotency, the baked manifest and the audit log. It is
the SHA-256 of the value's JSON with sorted keys, no white space, and bytes in base64.
"""

import hashlib
import json
from functools import lru_cache

from saggar.model.environment import Environment
from saggar.model.value import Value


def digest(value: Value) -> str:
    """Sixty-four hexadecimal digits after "sha256:"; equal for equal values, on every machine."""
    return _remembered(value) if isinstance(value, Environment) else _computed(value)


def canonical(value: Value) -> bytes:
    """The bytes that are digested."""
    plain = value.model_dump(mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _computed(value: Value) -> str:
    return f"sha256:{hashlib.sha256(canonical(value)).hexdigest()}"


# Every run asks for the digest of its environment, and few environments are in use at once.
_remembered = lru_cache(maxsize=128)(_computed)
