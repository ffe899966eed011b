"""What is said: frozen values that cross every boundary of Saggar, and no I/O."""

from saggar.model.codec import Payload, decode_value, encode_input
from saggar.model.digest import digest
from saggar.model.environment import Environment, Mount
from saggar.model.event import Displayed, Event, Finished, Output, Started, afold, fold
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Capabilities, Layer, Plan, Support, WarmKey
from saggar.model.policy import Network, Policy, Rung
from saggar.model.program import (
    ALL_KINDS,
    Code,
    CodeKind,
    Command,
    Inline,
    Named,
    Pickled,
    Program,
)
from saggar.model.quantity import (
    Bytes,
    Count,
    Seconds,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
)
from saggar.model.result import (
    Display,
    ErrorInfo,
    Outcome,
    Result,
    Skipped,
    Status,
    Usage,
)
from saggar.model.task import LARGEST_TASK, File, Task
from saggar.model.value import Value

__all__ = [
    "ALL_KINDS",
    "LARGEST_TASK",
    "LIMIT_NAMES",
    "Bytes",
    "Capabilities",
    "Code",
    "CodeKind",
    "Command",
    "Count",
    "Display",
    "Displayed",
    "Environment",
    "ErrorInfo",
    "Event",
    "File",
    "Finished",
    "Inline",
    "Layer",
    "Limits",
    "Mount",
    "Named",
    "Network",
    "Outcome",
    "Output",
    "Payload",
    "Pickled",
    "Plan",
    "Policy",
    "Program",
    "Result",
    "Rung",
    "Seconds",
    "Skipped",
    "Started",
    "Status",
    "Support",
    "Task",
    "Usage",
    "Value",
    "WarmKey",
    "afold",
    "decode_value",
    "digest",
    "encode_input",
    "fold",
    "format_bytes",
    "format_seconds",
    "parse_bytes",
    "parse_count",
    "parse_seconds",
]
