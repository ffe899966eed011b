"""
Jupyter's messages: signed parts from and to dictionaries. Pure.

The signature tells who wrote it; the key is known inside, so it is no safeguard. What a message
says is a guest's word, and of whatever type it likes: whoever reads it asks before he believes.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from saggar.engine import words

DELIMITER = b"<IDS|MSG>"
VERSION = "5.3"
DEEPEST_NAME = 8
"""Parts before the delimiter: the topic, or the names of those it came by."""


class Garbled(ValueError):
    """It is no message of Jupyter's."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message."""

    kind: str
    parent: str
    """The message that it answers."""
    content: Mapping[str, Any]
    metadata: Mapping[str, Any]


class Signer:
    """Packs and unpacks under one key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._session = secrets.token_hex(8)

    def pack(
        self, kind: str, content: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> tuple[str, list[bytes]]:
        """The number of a request, and its parts."""
        number = secrets.token_hex(16)
        header = {
            "msg_id": number,
            "msg_type": kind,
            "session": self._session,
            "username": "saggar",
            "date": datetime.now(UTC).isoformat(),
            "version": VERSION,
        }
        parts = [json.dumps(part).encode() for part in (header, {}, metadata, content)]
        return number, [DELIMITER, self._sign(parts), *parts]

    def unpack(self, parts: list[bytes]) -> Said:
        """What they say. Garbled if that is nothing, or somebody else's."""
        try:
            start = parts.index(DELIMITER, 0, DEEPEST_NAME) + 1
        except ValueError:
            raise Garbled("it has no delimiter") from None
        signed = parts[start + 1 : start + 5]
        if len(signed) < 4:
            raise Garbled(f"wanted a signature and four parts, found {len(parts) - start}")
        if not hmac.compare_digest(parts[start], self._sign(signed)):
            raise Garbled("its signature is another one's")
        header, parent, metadata, content = map(words.json_object, signed)
        if not isinstance(kind := header.get("msg_type"), str):
            raise Garbled("its header is not JSON, or has no type")
        return Said(kind, str(parent.get("msg_id", "")), content, metadata)

    def _sign(self, parts: list[bytes]) -> bytes:
        made = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            made.update(part)
        return made.hexdigest().encode()
