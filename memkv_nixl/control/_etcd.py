"""etcd, by its v3 API over gRPC: transactions, leases, watches. It knows nothing of what is kept.

Of several endpoints one is spoken to; when it does not answer, the next. Every call may raise
EtcdError. Endpoints are members of one etcd cluster, so it does not matter which one answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc

from memkv_nixl._config import ControlSettings
from memkv_nixl._errors import ConfigError
from memkv_nixl.control._limits import ETCD_ANSWER_BYTES_MAX
from memkv_nixl.proto.etcd import rpc_pb2 as pb
from memkv_nixl.proto.etcd import rpc_pb2_grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", ETCD_ANSWER_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),  # etcd hangs up on who asks more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),  # an etcd that is back is found at once
)
_CLOSE_GRACE_S = 10.0  # longer than any call but a watch
# etcd looked at the request and did not do it; after anything else it may have been done.
_DEFINITE = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_T = TypeVar("_T")


class EtcdError(Exception):
    """A call that etcd did not answer, or refused; with `definite` it was surely not done."""

    def __init__(self, sentence: str, *, definite: bool = False) -> None:
        super().__init__(sentence)
        self.definite = definite


class Etcd:
    """One etcd cluster. In one event loop; `close` it there."""

    def __init__(
        self, endpoints: Sequence[str], credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._endpoints = list(endpoints)
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._turned = asyncio.Event()  # set, for a new one, with each turn to the next endpoint
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._closing:
            task.cancel()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def txn(
        self, compare: Iterable[pb.Compare], success: Iterable[pb.RequestOp], deadline_s: float
    ) -> pb.TxnResponse:
        """Does the operations if the conditions hold, all together."""
        request = pb.TxnRequest(compare=compare, success=success)
        async with self._talking() as channel:
            stub = rpc_pb2_grpc.KVStub(channel)
            answer: pb.TxnResponse = await stub.Txn(request, timeout=deadline_s)
            return answer

    async def grant(self, seconds: int, deadline_s: float) -> tuple[int, int]:
        """A new lease: its number and its seconds, which may be more."""
        async with self._talking() as channel:
            stub = rpc_pb2_grpc.LeaseStub(channel)
            request = pb.LeaseGrantRequest(ttl=seconds)
            answer: pb.LeaseGrantResponse = await stub.LeaseGrant(request, timeout=deadline_s)
            return answer.id, answer.ttl

    async def keep_alive(self, lease: int, deadline_s: float) -> int:
        """Begins its time anew; gives its seconds, 0 when it has ended."""
        async with self._talking() as channel:
            stub = rpc_pb2_grpc.LeaseStub(channel)
            beat = iter([pb.LeaseKeepAliveRequest(id=lease)])
            call = stub.LeaseKeepAlive(beat, timeout=deadline_s)
            try:
                async for answer in call:
                    seconds: int = answer.ttl
                    return seconds
            finally:
                call.cancel()
        raise EtcdError(f"etcd at {self._endpoints[0]} ended the stream of a lease")

    async def revoke(self, lease: int, deadline_s: float) -> None:
        """Ends a lease and removes its keys."""
        async with self._talking() as channel:
            stub = rpc_pb2_grpc.LeaseStub(channel)
            await stub.LeaseRevoke(pb.LeaseRevokeRequest(id=lease), timeout=deadline_s)

    async def next_change(self, first: bytes, end: bytes, revision: int) -> None:
        """Comes back when a key from `first` to before `end` changed at this revision or later."""
        create = pb.WatchCreateRequest(key=first, range_end=end, start_revision=revision)
        async with self._talking() as channel:
            stub = rpc_pb2_grpc.WatchStub(channel)
            call = stub.Watch()
            try:
                await call.write(pb.WatchRequest(create_request=create))
                while True:
                    answer = await self._unless_turned(call.read())
                    # Cancelled: say, what it was to begin at is compacted.
                    if not isinstance(answer, pb.WatchResponse) or answer.canceled:
                        break
                    if answer.events:
                        return
            finally:
                call.cancel()
        raise EtcdError(f"etcd at {self._endpoints[0]} ended a watch")

    async def _unless_turned(self, reading: Awaitable[_T]) -> _T:
        """What was read, as long as this endpoint is the one that is spoken to."""
        read_, turned = asyncio.ensure_future(reading), asyncio.ensure_future(self._turned.wait())
        try:
            await asyncio.wait({read_, turned}, return_when=asyncio.FIRST_COMPLETED)
            if not read_.done():
                raise EtcdError(f"a watch goes on with etcd at {self._endpoints[0]}")
            return read_.result()
        finally:
            read_.cancel()
            turned.cancel()

    @asynccontextmanager
    async def _talking(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel; a call that fails on it is an EtcdError."""
        if self._channel is None:
            endpoint = self._endpoints[0]
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(endpoint, _OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(endpoint, self._credentials, _OPTIONS)
        channel, endpoint = self._channel, self._endpoints[0]
        try:
            yield channel
        except grpc.aio.AioRpcError as error:
            definite = error.code() in _DEFINITE
            if not definite and channel is self._channel and len(self._endpoints) > 1:
                self._turn()
            raise EtcdError(
                f"etcd at {endpoint} says {error.code().name}: {error.details()}", definite=definite
            ) from error

    def _turn(self) -> None:
        """Goes to the next endpoint. Calls on the former channel have time to end by themselves:
        closing it at once would cancel whoever waits for them."""
        former, self._channel = self._channel, None
        self._endpoints = [*self._endpoints[1:], self._endpoints[0]]
        self._turned.set()
        self._turned = asyncio.Event()
        if former is not None:
            task = asyncio.ensure_future(former.close(_CLOSE_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def etcd_of(settings: ControlSettings) -> Etcd:
    """The etcd that the settings name."""
    files = {name: getattr(settings, name) for name in ("etcd_ca", "etcd_key", "etcd_cert")}
    if not any(files.values()):
        _check_clear(settings)
        return Etcd(settings.etcd)
    if files["etcd_ca"] is None or (files["etcd_key"] is None) != (files["etcd_cert"] is None):
        raise ConfigError(
            "control.etcd_ca: TLS to etcd needs the authority of its certificate, and etcd_cert "
            "and etcd_key together where etcd wants to see one"
        )
    parts = [path and _read_pem(name, path) for name, path in files.items()]
    return Etcd(settings.etcd, grpc.ssl_channel_credentials(*parts))


def _check_clear(settings: ControlSettings) -> None:
    """Signing keys of tenants go to etcd: in the clear only on this machine, or if the user
    insists."""
    beyond = [endpoint for endpoint in settings.etcd if not endpoint.startswith(_LOOPBACK)]
    if beyond and not settings.insecure:
        raise ConfigError(
            f"control.etcd: {beyond[0]} is beyond loopback, and the keys that sign tenants' tokens "
            "would go there in the clear: name --etcd-ca (and --etcd-cert and --etcd-key, if etcd "
            "asks for a certificate), or say --insecure"
        )


def _read_pem(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"control.{name}: {path}: cannot be read: {error.strerror}") from error


# ---- the parts of a transaction


def made_at(key: bytes, revision: int) -> pb.Compare:
    """The key is the one that this revision made; 0: there is none."""
    return pb.Compare(target=pb.COMPARE_TARGET_CREATE, key=key, create_revision=revision)


def changed_at(key: bytes, revision: int) -> pb.Compare:
    """The key was last changed by this revision."""
    return pb.Compare(target=pb.COMPARE_TARGET_MOD, key=key, mod_revision=revision)


def read(first: bytes, end: bytes = b"") -> pb.RequestOp:
    """Reads a key, or those from `first` to before `end`."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=first, range_end=end))


def write(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    """Writes a key."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def remove(first: bytes, end: bytes) -> pb.RequestOp:
    """Removes the keys from `first` to before `end`."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=first, range_end=end))
