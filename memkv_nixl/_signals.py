"""Signals that end a command: as something to wait for, and as an exception."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator


def end_signals() -> tuple[signal.Signals, ...]:
    """What asks a command to end; a SIGHUP that nohup has taken away is none of it."""
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    return tuple(ends)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so that what is within cleans up;
    main thread only."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in end_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def wake_on_signals(*signals: signal.Signals) -> Iterator[socket.socket]:
    """A socket that becomes readable when one of these signals comes; main thread only."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
