"""The server: a keeper, the four services, health and reflection on one port, until it is told to
stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from memkv_nixl._config import ControlSettings
from memkv_nixl._errors import ConfigError, UnreachableError
from memkv_nixl._metrics_http import MetricsServer, listen
from memkv_nixl._signals import end_signals
from memkv_nixl.control._admin_service import AdminService
from memkv_nixl.control._call_counts import CallCounts
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._limits import (
    CALLS_AT_ONCE_MAX,
    CONNECTION_IDLE_S,
    CONNECTIONS_MAX,
    HANDSHAKE_DEADLINE_S,
    MESSAGE_BYTES_MAX,
)
from memkv_nixl.control._metrics import ControlSource
from memkv_nixl.control._placement_service import PlacementService
from memkv_nixl.control._policy_services import NamespacesService, TenantsService
from memkv_nixl.control._replica import Replica
from memkv_nixl.control._snapshot import Snapshot
from memkv_nixl.control._state import Timing
from memkv_nixl.control._watch_limit import WatchLimit
from memkv_nixl.proto.memkv.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
)

_log = logging.getLogger(__name__)
_STOP_GRACE_S = 1.0
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_EVERYWHERE = ("0.0.0.0:", "[::]:")
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a helper
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_connection_age_grace_ms", 1_000),
    # Before it is known who comes: the handshake of TLS, and HTTP/2's first frame.
    ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_DEADLINE_S * 1000)),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.max_connection_idle_ms", int(CONNECTION_IDLE_S * 1000)),  # agents always have a call
)
_SERVICES = tuple(
    service.full_name
    for module in (placement_pb2, namespaces_pb2, tenants_pb2, admin_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)


class ControlServer:
    """A control plane in this process. `start` and `stop` in one event loop."""

    def __init__(self, settings: ControlSettings) -> None:
        self._listen = settings.listen
        self._credentials = _credentials(settings)
        self._advertise = _advertised(settings)
        self._timing = Timing(
            settings.heartbeat_ms / 1000, settings.deadline_ms / 1000, settings.lost_after_ms / 1000
        )
        self._memory = Replica(settings) if settings.etcd else Snapshot(Path(settings.state))
        self._keeper: Keeper | None = None
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._calls = CallCounts()
        self._metrics_on = settings.metrics
        self._metrics: MetricsServer | None = None
        self.metrics_address = ""  # where /metrics is, once it serves

    @property
    def keeper(self) -> Keeper:
        """Who keeps the state, once it is started."""
        assert self._keeper is not None, "start() first"
        return self._keeper

    async def start(self) -> str:
        """Serves, and gives the address."""
        if isinstance(self._memory, Replica):
            await self._memory.open()
        self._keeper = Keeper(self._memory, self._timing)
        await self._keeper.start()
        server = grpc.aio.server(
            options=_OPTIONS,
            maximum_concurrent_rpcs=CALLS_AT_ONCE_MAX,
            interceptors=[self._calls, WatchLimit()],
        )
        placement = PlacementService(self.keeper)
        await self._serve_metrics(placement)
        placement_pb2_grpc.add_PlacementServicer_to_server(placement, server)
        namespaces_pb2_grpc.add_NamespacesServicer_to_server(NamespacesService(self.keeper), server)
        tenants_pb2_grpc.add_TenantsServicer_to_server(TenantsService(self.keeper), server)
        admin_pb2_grpc.add_AdminServicer_to_server(AdminService(self.keeper, placement), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME), server)
        port = self._bind(server)
        await server.start()
        self._server = server
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        address = f"{self._listen.rpartition(':')[0]}:{port}"
        if isinstance(self._memory, Replica):
            self._memory.start(self._keeper, self._advertise or address)
        return address

    async def failed(self) -> None:
        """Comes back, with the error, when something of it has ended; it should not."""
        parts = [asyncio.ensure_future(self.keeper.failed())]
        if isinstance(self._memory, Replica):
            parts.append(asyncio.ensure_future(self._memory.failed()))
        await _first_of(*parts)

    async def stop(self) -> None:
        """Calls under way have a moment; the state is written, or another replica leads."""
        if self._metrics is not None:
            await self._metrics.close()
        if isinstance(self._memory, Replica):
            await self._memory.resign()
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(_STOP_GRACE_S)
        if self._keeper is not None:
            await self._keeper.stop()
        else:
            await self._memory.release()

    async def _serve_metrics(self, placement: PlacementService) -> None:
        if self._metrics_on is None:
            return
        source = ControlSource(self.keeper, placement, self._calls)
        listening = listen(self._metrics_on, "control.metrics")
        self._metrics = MetricsServer(listening, source.page, source.trouble)
        self.metrics_address = await self._metrics.start()

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._credentials is None:
                return int(server.add_insecure_port(self._listen))
            return int(server.add_secure_port(self._listen, self._credentials))
        except RuntimeError as error:
            raise UnreachableError(
                f"control.listen: {self._listen} cannot be listened on ({error}); is another "
                "control plane there? Name another address with --listen"
            ) from error


async def serve(settings: ControlSettings, ready: Callable[[str, str], None]) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; `ready` hears its address and that of /metrics."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in end_signals():
        loop.add_signal_handler(number, asked.set)
    server = ControlServer(settings)
    try:
        stop = asyncio.ensure_future(asked.wait())
        started = asyncio.ensure_future(server.start())  # it waits for etcd as long as it takes
        await asyncio.wait({stop, started}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            ready(await started, server.metrics_address)
            await _first_of(stop, asyncio.ensure_future(server.failed()))
        else:
            await _first_of(stop, started)
        _log.info("stops")
    finally:
        await server.stop()


async def _first_of(*parts: asyncio.Future[Any]) -> None:
    """Waits for one of them, whose error is raised, and ends the others."""
    try:
        ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for one in ended:
            one.result()
    finally:
        for one in parts:
            one.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


def _advertised(settings: ControlSettings) -> str | None:
    """What others reach this replica by, where that is not what it listens on."""
    if settings.etcd and settings.advertise is None and settings.listen.startswith(_EVERYWHERE):
        raise ConfigError(
            f"control.advertise: {settings.listen} says on no machine where this replica is found; "
            "name the address with --advertise HOST:PORT"
        )
    return settings.advertise


def _credentials(settings: ControlSettings) -> grpc.ServerCredentials | None:
    """Both sides show certificates, unless only this machine can come, or the user insists."""
    files = {
        "tls_cert": settings.tls_cert,
        "tls_key": settings.tls_key,
        "tls_ca": settings.tls_ca,
    }
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == len(files):
        if settings.insecure or settings.listen.startswith(_LOOPBACK):
            return None
        raise ConfigError(
            f"control.listen: {settings.listen} is beyond loopback, where whoever reaches it could "
            "change the pool: name --tls-cert, --tls-key and --tls-ca, or say --insecure"
        )
    if missing:
        raise ConfigError(
            f"control.{missing[0]}: TLS needs tls_cert, tls_key and tls_ca together; this one is "
            "missing"
        )
    cert, key, authority = (_read_pem(name, str(path)) for name, path in files.items())
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=True
    )


def _read_pem(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"control.{name}: {path}: cannot be read: {error.strerror}") from error
