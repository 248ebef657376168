"""How a step logs: JSON lines for machines, readable lines for a person at a terminal."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any, Final, Literal

import click

Format = Literal["auto", "json", "text"]
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY: Final = (
    "great_expectations",
    "faiss",
    "alembic",
    "mlflow",
    "matplotlib",
    "urllib3",
    "fsspec",
    "botocore",
    "aiobotocore",
)
_LEVELS: Final = {
    logging.WARNING: click.style("warning: ", fg="yellow"),
    logging.ERROR: click.style("error: ", fg="red"),
    logging.CRITICAL: click.style("critical: ", fg="red"),
}


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, event, its values, run id and step."""

    def __init__(self, *, run_id: str, step: str) -> None:
        super().__init__()
        self._always = {"run_id": run_id, "step": step}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._always,
            **_values(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Readable(logging.Formatter):
    """``event  key=value …`` with the level in front when it is not mere information."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of text; a failure, which has a hint, is told in words."""
        given = _values(record)
        if hint := given.get("hint"):
            given = {}
        values = "  ".join(f"{key}={_short(value)}" for key, value in given.items())
        level = _LEVELS.get(record.levelno, "")
        lines = [f"  {level}{record.getMessage()}  {values}".rstrip()]
        lines += [f"  what to do: {hint}"] if hint else []
        lines += [self.formatException(record.exc_info)] if record.exc_info else []
        return "\n".join(lines)


class _Stderr(logging.Handler):
    """Writes to today's stderr, whatever it is; colours reach terminals alone."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 (as every handler of the standard library does)
            self.handleError(record)


def configure(*, run_id: str, step: str, style: Format = "auto", level: int = logging.INFO) -> None:
    """Send the log of this process to stderr; call once, at the program's entry."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = _Stderr()
    handler.setFormatter(Readable() if text else JsonLines(run_id=run_id, step=step))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)


def _values(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
