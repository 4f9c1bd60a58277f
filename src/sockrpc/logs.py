"""Log records as JSON, one object per line."""

from __future__ import annotations

import datetime as dt
import json
import logging

__all__ = ["FORMATS", "JSONFormatter", "configure"]

FORMATS = ("text", "json")

# Every record has these attributes; the others come from `extra`.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """A formatter for `logging` whose records are JSON objects of one line each.

    `time` (UTC, ISO 8601), `level`, `logger`, `process` and `message` come first, then the fields of
    `extra`, then `exception` and `stack` if there are any. Everything but printable ASCII is escaped, so that
    no text of a peer begins a new line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
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
            # An application's `extra` may have keys that JSON lacks, not-a-numbers or cycles.
            return json.dumps({name: str(value) for name, value in fields.items()})


def configure(level: str, form: str, *, processes: int = 1) -> None:
    """Make the root logger write to standard error in one of FORMATS; `processes` share it."""
    handler = logging.StreamHandler()
    process = " [%(process)d]" if processes > 1 else ""
    text = logging.Formatter(f"%(asctime)s{process} %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])
