"""
`Value`: what every value of Saggar has in common.

Frozen, closed to unknown fields, bytes as base64 in JSON: each of them crosses a wire.
"""

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from saggar.errors import InvalidTask


class Value(BaseModel):
    """A frozen value. Built wrongly it raises `InvalidTask` with one line per mistake."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        # A schema is built when its class is first used: most processes use few of them.
        defer_build=True,
    )

    if not TYPE_CHECKING:

        def __init__(self, /, **fields: Any) -> None:
            try:
                self.__pydantic_validator__.validate_python(fields, self_instance=self)
            except ValidationError as exc:
                raise InvalidTask.from_validation(exc, type(self).model_fields) from None

        # Pydantic then fills nested values itself instead of calling this for each of them;
        # their errors keep their full path that way, and a run stays cheap.
        __init__.__pydantic_base_init__ = True

    def replace(self, **changes: Any) -> Self:
        """The same value with some fields changed; what is changed is checked again."""
        return type(self)(**{**vars(self), **changes})
