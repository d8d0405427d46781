"""The log: a line of JSON for each thing that happens."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

# What every record has; all else was given to be said.
_USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Writes records as JSON, with whatever `extra` they were given.

    Examples
    --------
    >>> record = logging.makeLogRecord({"msg": "answered", "decision": "d1"})
    >>> json.loads(JsonLines().format(record))["decision"]
    'd1'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        said |= {k: v for k, v in vars(record).items() if k not in _USUAL}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str, ensure_ascii=False)


def log_as_json(level: str) -> None:
    """Write the log of the service, and what libraries warn of, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("braidbandit", "fusion", "uvicorn.error"):
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)
