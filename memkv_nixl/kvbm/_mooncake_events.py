"""Events in the format of Mooncake's store, from which Dynamo's router learns what the pool has.

A message on a ZMQ PUB socket has three frames: an empty topic, a sequence number (u64, big-endian)
that grows by one, and msgpack of [milliseconds, [event, …], rank], where an event is
{"event_type": "stored" or "removed", "object_key", "tenant_id": "default", "group_id": nil}.

The router listens at one address, forgets everything when a number is missing, and at more than a
million keys; whoever comes late is told nothing by Mooncake. So there is one `Publisher` for all
engines of a pool, which remembers the keys, tells them again to whoever subscribes, and takes the
oldest back before there are too many. Engines send it what they stored, found or missed (an
`Announcer`): [[stored, …], [removed, …]] as msgpack, over a PUSH socket, without ever waiting.

An engine that is alone has its publisher in its own process; several share one
(`python -m memkv_nixl.kvbm.mooncake_relay`).
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from memkv_nixl._errors import ConfigError

KEYS_MAX = 900_000  # the router forgets all of them beyond a million
_EVENTS_MAX = 4096  # of one message
_WAITING_MAX = 10_000  # messages of an announcer that wait for its publisher; more are dropped
_TOLD_MAX = 100_000  # messages that a slow router may be behind; then it misses some
_BINDS = re.compile(r"tcp://(\*|0\.0\.0\.0|\[::\]):\d+")
_ENDPOINT = re.compile(r"tcp://[^\s,/]+:\d+")
_names = itertools.count(1)
_log = logging.getLogger(__name__)


def check_endpoint(endpoint: str) -> None:
    """Raises ConfigError for what is no address."""
    if not _ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            f"events_endpoint: {endpoint!r} is no address; write tcp://*:5557 to publish from "
            "this engine, or tcp://HOST:PORT where the relay listens"
        )


def publishes_itself(endpoint: str) -> bool:
    """Whether an engine with this endpoint publishes, and does not send to a relay."""
    return _BINDS.fullmatch(endpoint) is not None


class Index:
    """What the router knows: the keys in the order they were last heard of."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._keys: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def learn(self, stored: Sequence[str], removed: Sequence[str]) -> list[dict[str, Any]]:
        """Takes news in; gives the events that tell the router."""
        events = []
        for key in removed:
            if key in self._keys:
                del self._keys[key]
                events.append(_event("removed", key))
        for key in stored:
            if key in self._keys:
                del self._keys[key]  # so that it is the newest
            else:
                events.append(_event("stored", key))
            self._keys[key] = None
        while len(self._keys) > self._keys_max:
            oldest = next(iter(self._keys))
            del self._keys[oldest]
            events.append(_event("removed", oldest))
        return events

    def everything(self) -> list[dict[str, Any]]:
        """The events that tell all of it."""
        return [_event("stored", key) for key in self._keys]


class Publisher:
    """The one PUB socket of a pool, and the thread that owns it."""

    def __init__(self, publish: str, listen: str, clock: Callable[[], float] = time.time) -> None:
        """Binds both addresses. Raises ConfigError where one cannot be had."""
        import msgspec
        import zmq

        self._zmq = zmq
        self._pack = msgspec.msgpack.encode
        self._unpack = msgspec.msgpack.Decoder(tuple[list[str], list[str]]).decode
        # The second is what text that is no UTF-8 raises.
        self._broken: tuple[type[Exception], ...] = (msgspec.DecodeError, UnicodeDecodeError)
        self._clock = clock
        self._index = Index()
        self._sequence = 0
        self._fell = False
        self._closing = f"inproc://memkv-closing-{next(_names)}"
        context = zmq.Context.instance()
        self._out = context.socket(zmq.XPUB)  # which tells of each subscription
        self._out.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._in = context.socket(zmq.PULL)
        self._wake = context.socket(zmq.PULL)
        for socket, address in ((self._out, publish), (self._in, listen)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, _TOLD_MAX)
            _bind(socket, address, zmq.ZMQError)
        self._wake.bind(self._closing)
        self.published: str = _text(self._out.getsockopt(zmq.LAST_ENDPOINT))
        self.listening: str = _text(self._in.getsockopt(zmq.LAST_ENDPOINT))
        self._thread = threading.Thread(target=self._run, name="memkv-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and lets go of the addresses."""
        if not self._thread.is_alive():
            return
        waker = self._zmq.Context.instance().socket(self._zmq.PUSH)
        waker.connect(self._closing)
        waker.send(b"")
        self._thread.join()
        waker.close()

    def wait(self) -> bool:
        """Waits for its end; whether it was closed, and did not fail."""
        self._thread.join()
        return not self._fell

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - logged; the engine does not need it
            self._fell = True
            _log.exception("MemKV: the router is told nothing any more")
        for socket in (self._out, self._in, self._wake):
            socket.close()

    def _serve(self) -> None:
        poller = self._zmq.Poller()
        for socket in (self._out, self._in, self._wake):
            poller.register(socket, self._zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._out in ready and self._out.recv()[:1] == b"\x01":
                self._publish(self._index.everything())
            if self._in in ready:
                self._take(self._in.recv())
            if self._wake in ready:
                return

    def _take(self, message: bytes) -> None:
        try:
            stored, removed = self._unpack(message)
        except self._broken as error:
            _log.warning("MemKV: a message that nobody can read came for the router: %s", error)
            return
        self._publish(self._index.learn(stored, removed))

    def _publish(self, events: list[dict[str, Any]]) -> None:
        for first in range(0, len(events), _EVENTS_MAX):
            self._sequence += 1
            batch = [int(self._clock() * 1000), events[first : first + _EVENTS_MAX], 0]
            frames = [b"", self._sequence.to_bytes(8, "big"), self._pack(batch)]
            self._out.send_multipart(frames)


class Announcer:
    """An engine's way to the publisher. Thread: any; nothing here waits."""

    def __init__(self, endpoint: str) -> None:
        """Publishes itself, or sends to a relay, as `endpoint` says."""
        import msgspec
        import zmq

        check_endpoint(endpoint)
        self._full: type[Exception] = zmq.Again
        self._pack = msgspec.msgpack.encode
        self._lock = threading.Lock()  # a socket belongs to one thread at a time
        self._dropped = 0
        self.publisher: Publisher | None = None
        if publishes_itself(endpoint):
            inside = f"inproc://memkv-events-{next(_names)}"
            self.publisher = Publisher(endpoint, inside)
            endpoint = inside
        self._out = zmq.Context.instance().socket(zmq.PUSH)
        self._out.setsockopt(zmq.LINGER, 0)
        self._out.setsockopt(zmq.SNDHWM, _WAITING_MAX)
        self._out.connect(endpoint)
        self._now = zmq.DONTWAIT

    def tell(self, stored: Sequence[str], removed: Sequence[str]) -> None:
        """Says what the pool has, and has no more; nothing after `close`."""
        if not stored and not removed:
            return
        message = self._pack((stored, removed))
        with self._lock:
            if self._out.closed:
                return
            try:
                self._out.send(message, self._now)
            except self._full:
                self._dropped += 1
                if self._dropped == 1:
                    _log.warning("MemKV: nobody takes the events for the router; they are dropped")

    def close(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._out.close()
        if self.publisher is not None:
            self.publisher.close()


def _event(kind: str, key: str) -> dict[str, Any]:
    return {"event_type": kind, "object_key": key, "tenant_id": "default", "group_id": None}


def _bind(socket: Any, address: str, errors: type[Exception]) -> None:
    try:
        socket.bind(address)
    except errors as error:
        raise ConfigError(f"events: {address} cannot be had: {error}") from error


def _text(value: bytes | str) -> str:
    return value.decode().rstrip("\0") if isinstance(value, bytes) else value
