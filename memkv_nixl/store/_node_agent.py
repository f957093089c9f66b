"""The agent of a node under a control plane: it keeps memkvd running and speaks for it.

    memkvd ◀── started, adopted, watched ── agent ── RegisterNode, heartbeats ──▶ control plane
       └── STAT, once per heartbeat ──────────▲  ◀──────────── maps, SERVING or DRAINING ──┘
             _block_mover ── second copies, a drained node's blocks ──▶ other nodes

A heartbeat is sent only when memkvd answered STAT: what does not serve is not said to. memkvd needs
neither the agent nor the control plane; when one of them dies it serves on, and the next agent
adopts it. The agent folder holds the last map, too (`cluster.map`), and the token that memkvd knows
its agent by.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import secrets
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from memkv_nixl._config import NodeSettings
from memkv_nixl._control_plane import Replicas, refusal_of
from memkv_nixl._errors import ConfigError, DismissedError, MemKVError, UnreachableError
from memkv_nixl._metrics_http import MetricsServer, listen
from memkv_nixl._signals import end_signals
from memkv_nixl._stat import parse_pairs, used_bytes
from memkv_nixl.proto.memkv.v1 import map_pb2, placement_pb2_grpc, tenants_pb2_grpc
from memkv_nixl.proto.memkv.v1 import placement_pb2 as pb
from memkv_nixl.store._block_mover import BlockMover, Moved
from memkv_nixl.store._drain import Drain
from memkv_nixl.store._kept_daemon import KeptDaemon, Running
from memkv_nixl.store._map_file import put_in_place, write_map_file
from memkv_nixl.store._mover_tokens import MoverTokens
from memkv_nixl.store._node_metrics import AgentNumbers, Stats
from memkv_nixl.store._node_source import NodeSource
from memkv_nixl.store._own_client import OwnStat, data_tls, own_data_tls
from memkv_nixl.store._own_token import OwnToken

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_WEIGHT = 100  # memkvd's own default
_RETRY_S = (0.1, 5.0)  # the first pause, and the longest
_MOVE_BEATS = 5  # heartbeats between two looks for blocks that many read
_REFUSED_RETRY_S = 1.0  # the longest while replicas answer and none of them takes the node
_HELLO_ANSWER_S = 3.0  # of a replica where there are others to ask
_FOR_GOOD = ("NODE_REMOVED", "NODE_TAKEN_OVER", "INVALID")
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a control plane that is back is found in seconds
)
_EVERYWHERE = ("0.0.0.0:", "[::]:")


class NodeAgent:
    """One node's agent. `run` it in an event loop."""

    def __init__(self, settings: NodeSettings) -> None:
        if not settings.control:
            raise ConfigError("node.control: name the control plane, HOST:PORT")
        if settings.move_rate < 1:
            raise ConfigError("node.move_rate: blocks move at one byte a second at least")
        if settings.listen.startswith(_EVERYWHERE) and settings.advertise is None:
            raise ConfigError(
                f"node.advertise: {settings.listen} says on no machine where clients find this "
                "node; name the address with --advertise HOST:PORT"
            )
        self._settings = settings
        self._credentials = _credentials(settings)
        self._replicas = Replicas(settings.control)
        self._registered = False
        self._folder = Path(settings.agent_dir).absolute()
        self._map_file = self._folder / "map.frame"
        settings = dataclasses.replace(settings, map_file=str(self._map_file))
        self._daemon = KeptDaemon(settings, self._folder)
        self._agent = secrets.token_bytes(16)
        self._token = OwnToken(self._folder)
        self._membership = 0
        self._interval_s = 1.0
        self._deadline_s = 5.0
        self._beats = (0, 0)  # the last one that was sent, and that was answered
        self._map = self._stored_map()
        self._writing = threading.Lock()
        self._state = map_pb2.NODE_STATE_SERVING
        self._up = asyncio.Event()  # memkvd serves
        self._starts = 0
        self._registered = False
        self._stat: OwnStat | None = None
        self._held = 0  # the epoch of the map that memkvd said it holds
        self._unkept = 0  # the epoch of a map that could not be written
        self._waiting = 0  # blocks that a rule wants on two nodes and that have no copy, by memkvd
        self._mover: BlockMover | None = None
        self._mover_tokens = MoverTokens(self._folder)
        self._moving = threading.Event()  # set: it is to end
        self._drain = Drain()  # this one, while the node drains
        self._drained = False  # said already
        self._move_failures = 0  # passes on end

    async def run(self, stop: asyncio.Event, ready: Callable[[Running, str], None]) -> None:
        """Until `stop`, which stops memkvd, too. Raises when it must not go on: memkvd runs on.

        `ready` hears of memkvd, and where /metrics is.
        """
        # Before there is a map memkvd has its own, of epoch 1, and is to know our token already.
        first = self._map if self._map.epoch else map_pb2.ClusterMap(epoch=1)
        try:
            self._hand_over(first)
        except OSError as error:
            raise UnreachableError(
                f"the map for memkvd cannot be written: {self._map_file}: {error.strerror}"
            ) from error
        async with contextlib.AsyncExitStack() as stack:
            metrics = await self._serve_metrics(stack)
            running = await self._started(stop)
            if running is not None:
                self._daemon.read_map()
                self._serves(running)
                ready(running, metrics)
                await self._run_on(stop, running)
        await asyncio.to_thread(self._daemon.stop)

    async def _started(self, stop: asyncio.Event) -> Running | None:
        """memkvd when it serves, however long that takes; None when `stop` comes before."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._daemon.start))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            self._daemon.give_up()
        try:
            return await starting
        except UnreachableError as error:
            if not stop.is_set():
                raise
            _log.info("stops before memkvd serves: %s", error)
            return None

    async def _run_on(self, stop: asyncio.Event, running: Running) -> None:
        tasks = [
            asyncio.create_task(stop.wait(), name="memkv-node-stop"),
            asyncio.create_task(self._keep_daemon(running), name="memkv-node-daemon"),
            asyncio.create_task(self._keep_registered(), name="memkv-node-control"),
            asyncio.create_task(self._keep_moving(), name="memkv-node-mover"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            self._moving.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Lets go of memkvd, if it runs, and of the folder."""
        self._moving.set()
        if self._stat is not None:
            self._stat.close()
        if self._mover is not None:
            self._mover.close()
        self._daemon.close()

    # ---- memkvd

    async def _keep_daemon(self, running: Running) -> None:
        while True:
            await _readable(running.ended)
            self._up.clear()
            _log.error("memkvd ended; its log says: %s", self._daemon.last_words() or "nothing")
            running = await self._start_again()
            self._serves(running)

    async def _start_again(self) -> Running:
        pause_s = _RETRY_S[0]
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_S[1])
            try:
                return await asyncio.to_thread(self._daemon.start)
            except MemKVError as error:
                _log.error("memkvd cannot be started again: %s", error)

    def _serves(self, running: Running) -> None:
        how = "goes on with" if running.adopted else "started"
        fields = {"pid": running.pid, "address": running.address, "adopted": running.adopted}
        _log.info(
            "%s memkvd, process %d, on %s",
            how,
            running.pid,
            running.address,
            extra={"fields": fields},
        )
        if self._stat is not None:
            self._stat.close()
        tls = own_data_tls(self._settings, running.address)
        self._stat = OwnStat(running.address, self._token.file, tls)
        self._drain.again()  # its marks are gone
        self._starts += not running.adopted
        self._up.set()

    # ---- /metrics

    async def _serve_metrics(self, stack: contextlib.AsyncExitStack) -> str:
        if self._settings.metrics is None:
            return ""
        source = NodeSource(str(self._settings.device), self._ask, self._agent_numbers)
        listening = listen(self._settings.metrics, "node.metrics")
        server = MetricsServer(listening, source.page, source.trouble)
        stack.push_async_callback(server.close)
        return await server.start()

    async def _ask(self) -> Stats:
        if not self._up.is_set() or self._stat is None:
            raise UnreachableError("memkvd does not run")
        return await self._stat.ask()

    def _agent_numbers(self) -> AgentNumbers:
        moved = Moved() if self._mover is None else self._mover.moved
        return AgentNumbers(self._starts, self._registered, moved.bytes, moved.copies, moved.failed)

    # ---- the control plane

    async def _keep_registered(self) -> None:
        pauses = Pauses()
        while True:
            await self._up.wait()
            self._registered = False
            leader = ""
            try:
                async with _channel(self._replicas.current, self._credentials) as channel:
                    await self._one_stream(placement_pb2_grpc.PlacementStub(channel))
            except grpc.aio.AioRpcError as error:
                reason, leader = self._judge(error)
                if reason:
                    pauses.answered()
            except UnreachableError as error:
                _log.warning("%s; memkvd serves on, and this tries again", error)
            if self._registered:
                pauses = Pauses()
            if not self._replicas.turn(leader):
                await asyncio.sleep(pauses.next() * random.uniform(0.5, 1.0))  # noqa: S311

    def _judge(self, error: grpc.aio.AioRpcError) -> tuple[str, str]:
        """Some refusals are for good; after all others, whose reason it gives, it tries again."""
        reason, leader = refusal_of(error)
        sentence = f"the control plane {self._replicas.current} says: {error.details()}"
        if reason in _FOR_GOOD:
            raise DismissedError(f"{sentence}. memkvd serves on, and nobody speaks for it")
        _log.warning("%s (%s); memkvd serves on, and this tries again", sentence, error.code().name)
        return reason, leader

    async def _one_stream(self, stub: Any) -> None:
        """Registers, and beats until the stream ends."""
        hello = await self._hello()
        stream = stub.RegisterNode()
        try:
            await _say(stream, pb.RegisterNodeRequest(hello=hello))
            self._beats = (0, 0)
            patience_s = _HELLO_ANSWER_S if self._replicas.several else None
            await self._hear(await _within(patience_s, _answer(stream)))
            self._registered = True
            self._replicas.found()
            _log.info("registered with %s", self._replicas.current)
            reader = asyncio.ensure_future(self._read_on(stream))
            try:
                await self._beat_on(stream, reader)
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await reader
        finally:
            self._registered = False
            stream.cancel()

    async def _hello(self) -> pb.NodeHello:
        assert self._stat is not None
        software = ""
        with contextlib.suppress(MemKVError):
            software = str((await self._stat.ask()).get("software", ""))
        return pb.NodeHello(
            address=self._settings.advertise or self._stat.address,
            weight=_WEIGHT if self._settings.weight is None else self._settings.weight,
            failure_domain=self._settings.failure_domain,
            agent=self._agent,
            membership=self._membership,
            history=self._map.history,
            epoch=self._map.epoch,
            software=software,
        )

    async def _beat_on(self, stream: Any, reader: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        sequence, answered_at = 0, loop.time()
        while not reader.done():
            if self._beats[0] == self._beats[1]:
                answered_at = loop.time()
            elif self._replicas.several and loop.time() - answered_at > self._deadline_s:
                raise UnreachableError(
                    f"the control plane {self._replicas.current} answered no heartbeat for "
                    f"{self._deadline_s:g} s"
                )
            stats = await self._numbers()
            if stats is not None:
                sequence += 1
                self._beats = (sequence, self._beats[1])
                # What memkvd holds, not what it was handed: a map that it refused comes again.
                held = min(stats.get("epoch", 0), self._map.epoch)
                beat = pb.NodeHeartbeat(
                    sequence=sequence, history=self._map.history, epoch=held, stats=stats
                )
                await _say(stream, pb.RegisterNodeRequest(heartbeat=beat))
            await asyncio.wait({reader}, timeout=self._interval_s)
        await reader

    async def _numbers(self) -> dict[str, int] | None:
        """What memkvd counts; None when it does not answer."""
        if not self._up.is_set() or self._stat is None:
            return None
        try:
            stats = await self._stat.ask()
        except MemKVError as error:
            _log.warning("no heartbeat: memkvd does not answer STAT: %s", error)
            return None
        numbers = {name: value for name, value in stats.items() if isinstance(value, int)}
        self._held = numbers.get("epoch", 0)
        self._waiting = numbers.get("copies_waiting", 0)
        return numbers | used_bytes(stats) | _waiting_by_space(stats) | self._moved()

    async def _read_on(self, stream: Any) -> None:
        while True:
            await self._hear(await _answer(stream))

    async def _hear(self, answer: pb.RegisterNodeResponse) -> None:
        self._membership = answer.membership
        self._interval_s = max(0.01, answer.heartbeat_interval_ms / 1000)
        self._deadline_s = max(2 * self._interval_s, answer.deadline_ms / 1000)
        self._beats = (self._beats[0], max(self._beats[1], answer.sequence))
        if answer.state != self._state:
            self._state = answer.state
            self._drain = Drain()
            _log.info("this node is to be %s", map_pb2.NodeState.Name(answer.state))
        if answer.HasField("map"):
            try:
                await self._take_map(answer.map)
            except OSError as error:  # the control plane sends it again
                self._say_unkept(answer.map.epoch, error)

    # ---- blocks that move

    def _moved(self) -> dict[str, int]:
        numbers = {"memkvd_starts": self._starts, "moves_failing": int(self._move_failures > 1)}
        if self._mover is None:
            return numbers
        moved, drain = self._mover.moved, self._drain
        left = {f"left_{code}": count for code, count in drain.left_behind(self._map).items()}
        return (
            numbers
            | left
            | {
                "moved_blocks": moved.blocks,
                "moved_bytes": moved.bytes,
                "copies_made": moved.copies,
                "moves_failed": moved.failed,
                "drain_moved_blocks": drain.moved_blocks,
                "drain_moved_bytes": drain.moved_bytes,
                "drained": int(self._is_drained()),
            }
        )

    def _is_drained(self) -> bool:
        draining = self._state == map_pb2.NODE_STATE_DRAINING
        return draining and self._drain.drained_by(self._map)

    async def _keep_moving(self) -> None:
        while True:
            await self._up.wait()
            draining = self._state == map_pb2.NODE_STATE_DRAINING
            try:
                await self._move_once(draining)
                self._move_failures = 0
            except MemKVError as error:
                self._move_failures += 1
                _log.warning("blocks wait to be moved: %s", error)
            except Exception:  # noqa: BLE001 - logged; a side job may not end the agent
                # Whatever is wrong there, the node keeps its heartbeat.
                self._move_failures += 1
                _log.exception("blocks wait to be moved")
            self._say_drained()
            over = self._is_drained() or self._drain.left_behind(self._map)
            beats = 1 if draining and not over else _MOVE_BEATS
            await asyncio.sleep(beats * self._interval_s)

    def _say_drained(self) -> None:
        drained = self._is_drained()
        if drained and not self._drained:
            _log.info("drained: every block lies on another node; this one can be removed")
        self._drained = drained

    async def _move_once(self, draining: bool) -> None:
        """One pass, by the map that memkvd holds, too: who drops blocks goes by that."""
        map_ = self._map
        if self._stat is None or self._held < map_.epoch or not map_.nodes:
            return
        if self._mover is None:
            address = self._settings.advertise or self._stat.address
            tls = data_tls(self._settings)
            self._mover = BlockMover(address, self._settings.move_rate, self._moving, tls)
        drain = self._drain

        def still() -> bool:
            return self._map is map_ and self._drain is drain

        missing = self._mover_tokens.missing(map_)
        if missing:
            await self._fetch_tokens(missing)
        tokens = ([""] if self._takes_strangers(map_) else []) + self._mover_tokens.files(map_)
        if not draining:
            await asyncio.to_thread(self._mover.copy_hot, map_, tokens, still)
            await asyncio.to_thread(self._mover.copy_settled, map_, tokens, still, self._waiting)
            return
        await asyncio.to_thread(self._mover.drain, map_, tokens, still, drain)
        if self._mover_tokens.missing(map_):
            drain.again()  # blocks of some tenants were not looked at

    async def _fetch_tokens(self, tenants: list[int]) -> None:
        try:
            async with _channel(self._replicas.current, self._credentials) as channel:
                await self._mover_tokens.fetch(tenants_pb2_grpc.TenantsStub(channel), tenants)
        except grpc.aio.AioRpcError as error:
            _log.warning("blocks of some tenants wait to be moved: %s", error.details())

    def _takes_strangers(self, map_: map_pb2.ClusterMap) -> bool:
        """As memkvd decides it: whether there are blocks of those without a token to move."""
        if self._settings.anonymous is not None:
            return self._settings.anonymous == "yes"
        listen = self._settings.listen.rpartition(":")[0]
        on_loopback = listen in ("127.0.0.1", "[::1]", "localhost")
        return on_loopback or not any(rule.keys for rule in map_.tenants)

    # ---- the map

    async def _take_map(self, fresh: map_pb2.ClusterMap) -> None:
        known = (fresh.history, fresh.epoch) == (self._map.history, self._map.epoch)
        if known and self._map_file.exists():
            return  # memkvd was handed it, and its next STAT says so
        # In a thread: a disk may take its time, and heartbeats go on.
        await asyncio.to_thread(self._write_map, fresh)
        self._daemon.read_map()
        self._map = fresh
        fields = {"epoch": fresh.epoch, "nodes": len(fresh.nodes)}
        _log.info(
            "the map of epoch %d has %d nodes",
            fresh.epoch,
            len(fresh.nodes),
            extra={"fields": fields},
        )

    def _say_unkept(self, epoch: int, error: OSError) -> None:
        """Once for each map: it comes with every heartbeat."""
        if epoch != self._unkept:
            _log.error(
                "the map of epoch %d cannot be written to %s: %s; memkvd goes on with that of "
                "epoch %d. Make room there, or give it to this user",
                epoch,
                self._folder,
                error.strerror,
                self._map.epoch,
            )
        self._unkept = epoch

    def _write_map(self, fresh: map_pb2.ClusterMap) -> None:
        with self._writing:  # a stream that ended may have left one on its way
            put_in_place(self._folder / "cluster.map", fresh.SerializeToString())
            self._hand_over(fresh)

    def _hand_over(self, map_: map_pb2.ClusterMap) -> None:
        write_map_file(self._map_file, map_, self._token.rule)

    def _stored_map(self) -> map_pb2.ClusterMap:
        try:
            return map_pb2.ClusterMap.FromString((self._folder / "cluster.map").read_bytes())
        except (OSError, DecodeError):
            return map_pb2.ClusterMap()  # the control plane sends it again


async def serve(settings: NodeSettings, ready: Callable[[Running, str], None]) -> None:
    """Runs a node's agent until SIGTERM, SIGINT or SIGHUP."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in end_signals():
        loop.add_signal_handler(number, stop.set)
    agent = NodeAgent(settings)
    try:
        await agent.run(stop, ready)
    finally:
        agent.close()


class Pauses:
    """How long an agent waits after each round of replicas that did not take it.

    Longer each time, so that a control plane which is down is left in peace; but while a replica
    answers there is one to lead soon, however many others do not.
    """

    def __init__(self) -> None:
        self._next_s, self._longest_s = _RETRY_S

    def answered(self) -> None:
        """A replica of this round refused the node and said why."""
        self._longest_s = _REFUSED_RETRY_S

    def next(self) -> float:
        """The pause behind this round; then another one begins."""
        pause_s = min(self._next_s, self._longest_s)
        self._next_s, self._longest_s = 2 * pause_s, _RETRY_S[1]
        return pause_s


def _waiting_by_space(stats: Stats) -> dict[str, int]:
    """How many blocks of each namespace wait for a copy, for `memkv namespaces list`."""
    return {
        f"waiting_{name.removeprefix('copies_')}": parse_pairs(line)["waiting"]
        for name, line in stats.items()
        if name.startswith("copies_") and isinstance(line, str)
    }


async def _say(stream: Any, message: pb.RegisterNodeRequest) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # it has ended; its reader knows why
        await stream.write(message)


async def _answer(stream: Any) -> pb.RegisterNodeResponse:
    answer = await stream.read()
    if not isinstance(answer, pb.RegisterNodeResponse):
        raise UnreachableError("the control plane ended the stream")
    return answer


async def _within(seconds: float | None, answer: Awaitable[_T]) -> _T:
    try:
        return await asyncio.wait_for(answer, seconds)
    except asyncio.TimeoutError:
        raise UnreachableError(f"the control plane did not answer within {seconds} s") from None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _channel(control: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(control, _OPTIONS)
    return grpc.aio.secure_channel(control, credentials, _OPTIONS)


def _credentials(settings: NodeSettings) -> grpc.ChannelCredentials | None:
    files = [settings.tls_ca, settings.tls_key, settings.tls_cert]
    if not any(files):
        return None
    if None in files:
        raise ConfigError("node.tls_cert, tls_key, tls_ca: TLS needs all three")
    try:
        parts = [Path(str(path)).read_bytes() for path in files]
    except OSError as error:
        raise ConfigError(f"node.tls_…: {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(*parts)
