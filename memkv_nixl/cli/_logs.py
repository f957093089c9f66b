"""Logs of commands that serve, on standard error, as text or as JSON (docs/reference/logs.md).

Whoever logs something that a machine may look for adds `extra={"fields": {…}}` to the sentence.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone

FORMATS = ("text", "json")


def log_to_stderr(level: str, *, as_json: bool, node: Callable[[], str] = str) -> None:
    """From now on every log line goes to standard error, as text or as JSON.

    `node` says whose lines these are, as far as that is known by then.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(node) if as_json else _Lines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return f"{_utc(record)} {super().format(record)}"


class _JsonLines(logging.Formatter):
    def __init__(self, node: Callable[[], str]) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": _utc(record),
                "level": record.levelname.lower(),
                "what": super().format(record),
                "node": self._node(),
                "fields": getattr(record, "fields", {}),
            }
        )


def _utc(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
