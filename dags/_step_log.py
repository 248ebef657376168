"""What a step writes, as Airflow shows it: our JSON lines become events with levels and values."""

from __future__ import annotations

import json
import logging
from typing import Any, Final, NamedTuple

_LEVELS: Final = logging.getLevelNamesMapping()
_SHOWN_OTHERWISE: Final = frozenset({"time", "level", "logger", "event", "run_id", "step"})
"""Fields of our log lines for which Airflow has a place of its own, or which the page names."""


class Line(NamedTuple):
    """One line: an event of ours, or as another program wrote it."""

    event: str
    level: int
    values: dict[str, Any]

    @property
    def trouble(self) -> str:
        """The line in words for a person when it tells of an error, else nothing."""
        if self.level < logging.ERROR:
            return ""
        if traceback := str(self.values.get("traceback", "")).strip():
            return f"{self.event}: {traceback.splitlines()[-1]}"
        hint = self.values.get("hint")
        return f"{self.event}\nwhat to do: {hint}" if hint else self.event


def read_line(text: str) -> Line:
    """Return what a line says."""
    try:
        told = json.loads(text)
        event, level = str(told["event"]), _LEVELS[told["level"].upper()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Line(text, logging.INFO, {})
    values = {key: value for key, value in told.items() if key not in _SHOWN_OTHERWISE}
    return Line(event, level, values)


def pass_on(text: str, log: Any) -> str:
    """Write a line of the step to the task's log; return it in words when it is an error."""
    line = read_line(text)
    log.log(line.level, line.event, **line.values)
    return line.trouble
