"""An operator's own words on why, which the event of a change carries for those whom it hits."""

from __future__ import annotations

from memkv_nixl.control._limits import REASON_BYTES_MAX
from memkv_nixl.control._refused import Reason, RefusalError


def because(reason: str) -> str:
    """What the event's text ends with; "" where nobody said why."""
    if len(reason.encode()) > REASON_BYTES_MAX or not reason.isprintable():
        raise RefusalError(
            Reason.INVALID,
            f"reason: it goes into one line of the events, so it has at most {REASON_BYTES_MAX} "
            "bytes, all of them printable",
        )
    return f"; reason: {reason}" if reason else ""
