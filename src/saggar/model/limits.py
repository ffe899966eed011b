"""What a run may consume."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from saggar.model.quantity import (
    Bytes,
    Count,
    KiB,
    MiB,
    Seconds,
    TiB,
    format_bytes,
    format_seconds,
)
from saggar.model.value import Value

_WEEK: Final = 7 * 86400


@dataclass(frozen=True, slots=True)
class _Between:
    """What a number may be at least and at most, told with the unit it is shown in."""

    least: int
    most: int
    shown: Callable[[float], str] = "{:,}".format

    def __get_pydantic_core_schema__(self, source: Any, build: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, build(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, build: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**build(schema), "minimum": self.least, "maximum": self.most}

    def _check(self, number: float) -> float:
        if number < self.least:
            raise ValueError(f"must be at least {self.shown(self.least)}, found {self._of(number)}")
        if number > self.most:
            raise ValueError(f"must be at most {self.shown(self.most)}, found {self._of(number)}")
        return number

    def _of(self, number: float) -> str:
        """As the bounds are shown, unless it is beyond all units."""
        return self.shown(number) if number < 1 << 60 else "far more"


def _number(cores: object) -> object:
    if isinstance(cores, bool):
        raise ValueError(f"wanted a number of cores such as 1.5, found {cores!r}")
    return cores


_Time = Annotated[Seconds, Field(gt=0), _Between(0, _WEEK, format_seconds)]
_Size = Annotated[Bytes, _Between(1, 16 * TiB, format_bytes)]
# Below these nothing can run: what asks for less is a number that lost its unit, most often.
_Memory = Annotated[Bytes, _Between(MiB, 16 * TiB, format_bytes)]
_Disk = Annotated[Bytes, _Between(64 * KiB, 16 * TiB, format_bytes)]
_Inodes = Annotated[Count, _Between(8, 1 << 31)]
# The kernel knows no process number and, by default, no descriptor above these.
_Processes = Annotated[Count, _Between(1, 1 << 22)]
_Descriptors = Annotated[Count, _Between(1, 1 << 20)]
_Cores = Annotated[float, BeforeValidator(_number), Field(gt=0, le=4096, allow_inf_nan=False)]


class Limits(Value):
    """What a run may consume. Every limit is finite."""

    if TYPE_CHECKING:
        # Every quantity may be written as text, which the types of the fields do not say.
        def __init__(  # noqa: PLR0913  (one for each limit)
            self,
            *,
            wall: float | str = ...,
            grace: float | str = ...,
            cpu: float | str = ...,
            cpu_share: float = ...,
            memory: int | str = ...,
            processes: int = ...,
            open_files: int = ...,
            file_size: int | str = ...,
            disk: int | str = ...,
            inodes: int = ...,
            output: int | str = ...,
        ) -> None: ...

    wall: _Time = 10.0
    """Time from the start to the soft deadline, at which the program is interrupted."""
    grace: _Time = 1.0
    """Time from the soft deadline to the hard one, at which it is killed."""
    cpu: _Time = 10.0
    """Processor time of the whole process tree."""
    cpu_share: _Cores = 1.0
    """How many cores it may keep busy."""
    memory: _Memory = 256 * MiB
    """Peak of the whole process tree, not of one process."""
    processes: _Processes = 64
    """Processes and threads alive at once."""
    open_files: _Descriptors = 256
    """Open descriptors of one process."""
    file_size: _Size = 64 * MiB
    """Length of one file."""
    disk: _Disk = 64 * MiB
    """Bytes in the writable folders together."""
    inodes: _Inodes = 10_000
    """Files and folders in the writable folders together."""
    output: _Size = MiB
    """Bytes of stdout and stderr that are kept, together."""

    def within(self, ceiling: "Limits") -> "Limits":
        """The smaller of each limit."""
        ours = vars(self)
        changes = {name: most for name, most in vars(ceiling).items() if most < ours[name]}
        return self.replace(**changes) if changes else self


LIMIT_NAMES: Final = tuple(Limits.model_fields)
"""The names of all limits, as a policy's `best_effort` and a result's `limit` spell them."""
