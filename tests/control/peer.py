"""A peer of memkvd that says what a test tells it, frame by frame (docs/formats/wire.md)."""

from __future__ import annotations

import socket
import ssl
import struct
from types import TracebackType
from typing import NamedTuple

from memkv_nixl._errors import CODES
from memkv_nixl._native import crc32c

HELLO, CHALLENGE, AUTH, WELCOME, REFUSE = 1, 2, 3, 4, 5
MATCH, MATCH_REPLY, PUT, GRANT, COMMIT, PUT_DONE = 6, 7, 8, 9, 10, 11
GET, GET_BLOCK, DATA = 12, 13, 14
DROP, DROP_REPLY, STAT, STAT_REPLY = 16, 17, 18, 19
LIST, LIST_REPLY, MARK, MARK_REPLY = 23, 24, 25, 26

SESSION = 0x1122334455667788
DEADLINE_S = 30
_HEADER = struct.Struct("<4sB3xQIII")
_LISTED = struct.Struct("<16sIQIQQIIIBB2xH")  # a record of LIST_REPLY, its key left out


class Listed(NamedTuple):
    """What LIST says of one block."""

    length: int
    incarnation: int
    mark: int


class RefusedError(Exception):
    """REFUSE, or a connection that ended without a word."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


def hello(session: int = SESSION) -> bytes:
    """The body of a HELLO as it should be."""
    return struct.pack("<HHIQH", 1, 1, 1, session, 4) + b"test"


class Peer:
    """One connection, by Python's TLS where there is a `tls`; it says HELLO and hears the nonce."""

    def __init__(
        self,
        address: str,
        session: int = SESSION,
        tls: ssl.SSLContext | None = None,
        *,
        silent: bool = False,
    ) -> None:
        """With `silent` it says nothing yet."""
        host, _, port = address.rpartition(":")
        self.address = address
        self._requests = 0
        self.incarnation = 0  # of the last block that was put, 0 where it was not
        self._unread = b""
        self._socket = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self.nonce = bytes(32)
        if not silent:
            self.say(HELLO, 0, hello(session))
            self.nonce = self.hear(CHALLENGE)[8:40]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def auth(self, token: bytes = b"", proof: bytes = b"") -> bytes:
        """AUTH; gives WELCOME."""
        said = struct.pack("<H", len(token)) + token + struct.pack("<H", len(proof)) + proof
        self.say(AUTH, 0, said)
        return self.hear(WELCOME)

    def say(self, kind: int, request: int, body: bytes = b"", payload: bytes = b"") -> None:
        head = _HEADER.pack(b"MKV1", kind, request, len(body), len(payload), crc32c(body))
        try:
            self._socket.sendall(head + struct.pack("<I", crc32c(head)) + body + payload)
        except OSError:
            pass  # whoever hung up said why before

    def hear(self, kind: int) -> bytes:
        """The body of the next frame, which is of this kind."""
        came, body = self._frame()
        if came == REFUSE:
            raise RefusedError(CODES[body[0]], body[4:].decode())
        assert came == kind, (came, kind)
        return body

    # ---- requests, one at a time

    def put(self, space: bytes, key: bytes, block: bytes) -> str:
        head = struct.pack("<IQQIII", len(block), 1, 2, 0, 0, 0)
        request = self._ask(PUT, _named(space) + head + _run(key))
        came, body = self._frame()
        if came == GRANT:
            self.say(DATA, request, struct.pack("<II", 0, 0), block)
            self.say(COMMIT, request, struct.pack("<III", 0, 1, crc32c(block)))
            body = self.hear(PUT_DONE)
        elif came == REFUSE:
            raise RefusedError(CODES[body[0]], body[4:].decode())
        (self.incarnation,) = struct.unpack_from("<Q", body, 16)
        return CODES[body[8]]

    def get(self, space: bytes, key: bytes, length: int) -> tuple[str, bytes]:
        """The block's code, and the bytes of one unit that came."""
        self._ask(GET, _named(space) + struct.pack("<II", 0, length) + _run(key))
        body = self.hear(GET_BLOCK)
        code = CODES[body[8]]
        if code != "ok":
            return code, b""
        came, data = self._frame()
        assert came == DATA
        return code, data[8:]

    def match(self, space: bytes, key: bytes) -> tuple[int, int]:
        """Where it is (0: nowhere), and its length."""
        self._ask(MATCH, space + struct.pack("<III", 0, 0, 1) + _run(key))
        where, length = struct.unpack_from("<B3xI", self.hear(MATCH_REPLY), 12)
        return where, length

    def drop(self, space: bytes, key: bytes) -> str:
        self._ask(DROP, _named(space) + _run(key))
        return CODES[self.hear(DROP_REPLY)[8]]

    def list_blocks(self) -> dict[tuple[bytes, bytes], Listed]:
        """Every block of the tenant, by namespace and key."""
        found, cursor = {}, 0
        while True:
            self._ask(LIST, struct.pack("<QI4B", cursor, 1024, 0, 0, 0, 0))
            body = self.hear(LIST_REPLY)
            cursor, count = struct.unpack_from("<QI", body, 4)
            at = 16
            for _ in range(count):
                record = _LISTED.unpack_from(body, at)
                space, incarnation, length = record[0], record[2], record[3]
                mark, key_bytes = record[-2], record[-1]
                at += _LISTED.size + key_bytes
                found[space, body[at - key_bytes : at]] = Listed(length, incarnation, mark)
            assert at == len(body)
            if cursor == 0:
                return found

    def mark(self, space: bytes, key: bytes, mark: int, incarnation: int) -> str:
        head = struct.pack("<IB3xQ", 0, mark, incarnation)
        self._ask(MARK, space + head + _run(key))
        return CODES[self.hear(MARK_REPLY)[4]]

    def stat(self) -> dict[str, str]:
        self._ask(STAT, b"")
        lines = self.hear(STAT_REPLY).decode().splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def _ask(self, kind: int, body: bytes) -> int:
        self._requests += 1
        self.say(kind, self._requests, body)
        return self._requests

    def _frame(self) -> tuple[int, bytes]:
        head = self._read(32)
        _, kind, _, body_bytes, payload_bytes, crc = _HEADER.unpack_from(head)
        body = self._read(body_bytes)
        assert crc32c(body) == crc
        return kind, body + self._read(payload_bytes)

    def _read(self, count: int) -> bytes:
        while len(self._unread) < count:
            try:
                more = self._socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                raise RefusedError("closed", "the node hung up without a word")
            self._unread += more
        out, self._unread = self._unread[:count], self._unread[count:]
        return out


def _named(space: bytes) -> bytes:
    """A namespace at drop generation 0, and one block of it."""
    return space + struct.pack("<II", 0, 1)


def _run(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text
