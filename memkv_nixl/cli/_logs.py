"""Logs of commands that serve: lines on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone


def log_to_stderr(level: str, *, as_json: bool) -> None:
    """From now on every log line goes to standard error, as text or as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _Lines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return f"{_utc(record)} {super().format(record)}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        document = {"time": _utc(record), "level": record.levelname.lower(), "message": text}
        return json.dumps(document)


def _utc(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
