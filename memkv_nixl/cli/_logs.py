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

    `node` says whose lines these are, as far as that is known by then; the native client's are of
    whom it names now, until `log_natively` names another one.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(node) if as_json else _Lines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    log_natively(level, node() if as_json else None)


def log_natively(level: str, json_of: str | None) -> None:
    """From now on the native client's lines are like ours: as text or, of a node, as JSON."""
    from memkv_nixl._native import set_log

    set_log(level, json_of)


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
