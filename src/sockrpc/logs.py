"""Log records as JSON, one object a line."""

from __future__ import annotations

import datetime as dt
import json
import logging

__all__ = ["FORMATS", "JSONFormatter", "configure"]

FORMATS = ("text", "json")

# What every record has; the rest of its attributes are what it was given as `extra`.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """A formatter for `logging` whose records are JSON objects of one line each.

    `time` (UTC, ISO 8601), `level`, `logger`, `process` and `message` come first, then what the record
    was given as `extra`, then `exception` and `stack`, where there are any. Everything but printable
    ASCII is escaped: nothing that a peer sends begins a new line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        fields: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in STANDARD:
                fields.setdefault(name, value)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(fields, default=str, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # Keys that are none in JSON, not-a-numbers, circles: what an application may pass as `extra`.
            return json.dumps({name: str(value) for name, value in fields.items()})


def configure(level: str, form: str, *, processes: int = 1) -> None:
    """Have the root logger write to standard error, in one of FORMATS; `processes` share that."""
    handler = logging.StreamHandler()
    process = " [%(process)d]" if processes > 1 else ""
    text = logging.Formatter(f"%(asctime)s{process} %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])
