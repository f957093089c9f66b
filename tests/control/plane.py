"""A control plane in the test's own process, with a client of each service."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from memkv_nixl._config import ControlSettings
from memkv_nixl.control._server import ControlServer
from memkv_nixl.proto.memkv.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    namespaces_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
    tenants_pb2_grpc,
)

DEADLINE_S = 30
_agents = itertools.count(1)


@dataclass
class Plane:
    """A control plane that serves."""

    server: ControlServer
    address: str
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.placement: Any = placement_pb2_grpc.PlacementStub(self.channel)
        self.namespaces: Any = namespaces_pb2_grpc.NamespacesStub(self.channel)
        self.tenants: Any = tenants_pb2_grpc.TenantsStub(self.channel)
        self.admin: Any = admin_pb2_grpc.AdminStub(self.channel)

    async def epoch(self) -> int:
        answer = await self.placement.GetMap(placement_pb2.GetMapRequest(), timeout=DEADLINE_S)
        return int(answer.map.epoch)

    async def join(self, address: str, **said: Any) -> Agent:
        """A node that registered."""
        agent = Agent(self, address, **said)
        await agent.hello()
        return agent

    async def next_event(self, kind: str, subject: str = "") -> Any:
        """The first event of this kind, that was or will be."""
        watch = self.admin.WatchEvents(
            admin_pb2.WatchEventsRequest(follow=True), timeout=DEADLINE_S
        )
        async for event in watch:
            if event.kind == kind and subject in ("", event.subject):
                watch.cancel()
                return event
        raise AssertionError(f"no event {kind} of {subject}")


class Agent:
    """What a node's agent says and hears, message by message."""

    def __init__(self, plane: Plane, address: str, **said: Any) -> None:
        self.said = {
            "address": address,
            "weight": 100,
            "agent": next(_agents).to_bytes(16, "big"),
            **said,
        }
        self.stream = plane.placement.RegisterNode(timeout=DEADLINE_S)
        self.sequence = 0
        self.heard: Any = None

    async def hello(self) -> Any:
        hello = placement_pb2.NodeHello(**self.said)
        await self.stream.write(placement_pb2.RegisterNodeRequest(hello=hello))
        return await self.read()

    async def beat(self, history: int = 0, epoch: int = 0, **stats: int) -> Any:
        """Says that it is there, and gives the answer to that."""
        self.sequence += 1
        heartbeat = placement_pb2.NodeHeartbeat(
            sequence=self.sequence, history=history, epoch=epoch, stats=stats
        )
        await self.stream.write(placement_pb2.RegisterNodeRequest(heartbeat=heartbeat))
        answer = await self.read()
        while answer.sequence != self.sequence:
            answer = await self.read()
        return answer

    async def read(self) -> Any:
        answer = await self.stream.read()
        assert answer is not grpc.aio.EOF, "the stream was ended in order"
        self.heard = answer
        return answer

    def hang_up(self) -> None:
        self.stream.cancel()


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a status's details."""
    status = rpc_status.from_call(error)
    assert status is not None, f"a status without details: {error!r}"
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert info.domain == "memkv"
    assert status.message == error.details()
    return str(info.reason)


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """(status, reason) of a call that is refused."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, reason_of(error)
    raise AssertionError(f"it was not refused: {answer}")


def settings(folder: Path, **changes: Any) -> ControlSettings:
    return dataclasses.replace(
        ControlSettings(listen="127.0.0.1:0", state=str(folder / "state")), **changes
    )


@asynccontextmanager
async def serving(folder: Path, **changes: Any) -> AsyncIterator[Plane]:
    """A control plane whose state is in this folder; the same folder is the same one again."""
    server = ControlServer(settings(folder, **changes))
    try:
        address = await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield Plane(server, address, channel)
    finally:
        await server.stop()


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Runs a test's story in an event loop of its own."""

    async def bounded() -> None:
        await asyncio.wait_for(story(), DEADLINE_S)

    asyncio.run(bounded())
