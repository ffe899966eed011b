"""
Logs: a fixed dotted name and keys beside it. In a file they are JSON, one object a line.

Apart from who speaks, so that every process of ours writes the same form. What a tenant sent, code
or input or secrets, is never among the keys.
"""

import json
import logging
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Final

ROOT: Final = "saggar"


def say(log: logging.Logger, event: str, **keys: Any) -> None:
    """Tell that something happened: `say(log, "job.submitted", task_id=...)`."""
    _tell(log, logging.INFO, event, keys)


def warn(log: logging.Logger, event: str, **keys: Any) -> None:
    """The same of something that an operator should look at."""
    _tell(log, logging.WARNING, event, keys)


def _tell(log: logging.Logger, level: int, event: str, keys: dict[str, Any]) -> None:
    if log.isEnabledFor(level):
        # Whoever prints logs his own way, as Celery does, gets the keys in the text.
        text = json.dumps(keys, ensure_ascii=False, default=str)
        log.log(level, "%s %s", event, text, extra={"event": event, "keys": keys})


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever was logged."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event = getattr(record, "event", None)
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if event is None:
            said["message"] = record.getMessage()
        else:
            said |= {"event": event, **getattr(record, "keys", {})}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def to_file(log: logging.Logger, path: Path) -> None:
    """Write what this logger hears to a file as well; one that is moved away is begun anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = WatchedFileHandler(path)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def configure(level: str, path: Path | None) -> None:
    """For a process that is ours alone: what matters enough to stderr, everything to a file."""
    log = logging.getLogger(ROOT)
    console = logging.StreamHandler()
    console.setFormatter(JsonLines())
    console.setLevel(level.upper())
    log.addHandler(console)
    log.setLevel(level.upper())
    log.propagate = False
    if path is not None:
        to_file(log, path)
