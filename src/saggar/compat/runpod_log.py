"""What the worker says of one job, in the form that clients show: time, level, text."""

import logging
import os
import time
from collections import deque
from typing import Final

MOST: Final = 1000
LOGGER: Final = "saggar.worker"
FORMAT: Final = "%(asctime)s | %(levelname)-5s | %(message)s"


def level() -> str:
    """What is worth a line: LOG_LEVEL."""
    said = os.environ.get("LOG_LEVEL", "INFO").strip().upper()
    return said if said in logging.getLevelNamesMapping() else "INFO"


def show() -> None:
    """Let the worker's own lines be seen on stderr, beside what other libraries say there."""
    logging.basicConfig(level=logging.WARNING, format=FORMAT)
    logging.getLogger(LOGGER).setLevel(level())


class JobLog:
    """The lines of one job, the last thousand of them; also told to the log of the process."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MOST)
        self._least = logging.getLevelNamesMapping()[level()]
        self._formatter = logging.Formatter(FORMAT)

    def say(self, text: str) -> None:
        """A line that users want to see."""
        self._add(logging.INFO, text)

    def detail(self, text: str) -> None:
        """A line for who looks for a mistake."""
        self._add(logging.DEBUG, text)

    def doubt(self, text: str) -> None:
        """A line about what should not be so."""
        self._add(logging.WARNING, text)

    def _add(self, grade: int, text: str) -> None:
        logger = logging.getLogger(LOGGER)
        logger.log(grade, "%s", text)
        if grade >= self._least:
            name = logging.getLevelName(grade)
            about = {"msg": text, "levelno": grade, "levelname": name, "created": time.time()}
            self._lines.append(self._formatter.format(logging.makeLogRecord(about)))

    def before(self, printed: str) -> str:
        """These lines, an empty one, and what the program has printed."""
        said = "\n".join(self._lines)
        return f"{said}\n\n{printed}" if said else printed
