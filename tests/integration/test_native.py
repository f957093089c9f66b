"""memkv_nixl._native against a real node: buffers, statuses, threads, and what it refuses."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memkv_nixl import _native
from memkv_nixl._errors import CODES, UnreachableError, UsageError
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client, Request
from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place, place_ranked
from tests.integration.nodes import HANDS, Node

SPACE = namespace_id("native")
WAIT_MS = 20_000


@pytest.fixture(scope="module", params=HANDS)
def node(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Node]:
    flags = ("--hands", request.param)
    node = Node(tmp_path_factory.mktemp("native") / "node.dat", flags=flags).start()
    yield node
    node.stop()


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    client = Client([node.address])
    yield client
    client.close()


def codes(request: Request) -> list[str]:
    assert request.wait(WAIT_MS)
    return [CODES[code] for code in request.codes()]


def test_arrays_go_in_and_come_back(client: Client) -> None:
    blocks = [np.random.default_rng(i).integers(0, 255, 100_000 + i, np.uint8) for i in range(20)]
    keys = [f"array-{i}".encode() for i in range(20)]
    assert codes(client.put(SPACE, keys, blocks, depths=list(range(20)))) == ["ok"] * 20
    targets = [np.zeros_like(block) for block in blocks]
    assert codes(client.get(SPACE, keys, targets)) == ["ok"] * 20
    for block, target in zip(blocks, targets, strict=True):
        np.testing.assert_array_equal(block, target)


def test_a_missing_block_leaves_the_others(client: Client) -> None:
    assert codes(client.put(SPACE, [b"there"], [b"x" * 10])) == ["ok"]
    targets = [bytearray(10), bytearray(10)]
    assert codes(client.get(SPACE, [b"gone", b"there"], targets)) == ["not_found", "ok"]
    assert targets[1] == b"x" * 10


def test_ranges(client: Client) -> None:
    data = np.random.default_rng(1).integers(0, 255, 300_000, np.uint8)
    assert codes(client.put(SPACE, [b"range"], [data])) == ["ok"]
    for offset, length in [(0, 1), (65535, 2), (299_999, 1), (70_001, 150_000)]:
        target = np.zeros(length, np.uint8)
        assert codes(client.get(SPACE, [b"range"], [target], offsets=[offset])) == ["ok"]
        np.testing.assert_array_equal(target, data[offset : offset + length])
    beyond = client.get(SPACE, [b"range"], [bytearray(2)], offsets=[299_999])
    assert codes(beyond) == ["invalid"]


def test_match_says_where_and_how_long(client: Client) -> None:
    assert codes(client.put(SPACE, [b"m"], [b"12345"])) == ["ok"]
    request = client.match(SPACE, [b"m", b"nobody"])
    assert request.wait(WAIT_MS)
    assert request.matches() == [(0, 2, 5), (0, 0, 0)]


def test_latencies_are_counted_by_how_a_request_ended(client: Client) -> None:
    assert codes(client.put(SPACE, [b"slow", b"quick"], [b"x" * 10, b"y" * 20])) == ["ok"] * 2
    assert codes(client.get(SPACE, [b"slow"], [bytearray(10)])) == ["ok"]
    assert codes(client.get(SPACE, [b"slow", b"nowhere"], [bytearray(10)] * 2)) == [
        "ok",
        "not_found",
    ]
    assert client.match(SPACE, [b"nowhere"]).wait(WAIT_MS)
    found = client.latencies()
    bounds = _native.latency_bounds_us()
    assert bounds == sorted(bounds)
    counted = {
        name: (sum(buckets), moved) for name, (buckets, _, moved) in found.items() if sum(buckets)
    }
    assert counted == {
        "put_stored": (1, 30),
        "get_hit": (1, 10),
        "get_miss": (1, 10),
        "match_miss": (1, 0),
    }
    assert all(len(buckets) == len(bounds) + 1 for buckets, _, _ in found.values())
    assert 0 < found["put_stored"][1] < WAIT_MS * 1000


def test_a_dropped_block_is_gone_and_can_be_put_again(client: Client) -> None:
    assert codes(client.put(SPACE, [b"d"], [b"one"])) == ["ok"]
    assert codes(client.drop(SPACE, [b"d"])) == ["ok"]
    assert codes(client.get(SPACE, [b"d"], [bytearray(3)])) == ["not_found"]
    assert codes(client.put(SPACE, [b"d"], [b"three"])) == ["ok"]


def test_wrong_calls_are_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="16 bytes"):
        client.put(b"short", [b"k"], [b"x"])
    with pytest.raises(UsageError, match="as many buffers"):
        client.put(SPACE, [b"k"], [])
    with pytest.raises(UsageError, match="groups: 2 given for 1"):
        client.match(SPACE, [b"k"], groups=[b"a", b"b"])
    with pytest.raises(BufferError):
        client.get(SPACE, [b"k"], [b"read only"])
    with pytest.raises(TypeError):
        client.put(SPACE, [b"k"], [3])
    with pytest.raises(UsageError, match="node"):
        Client([])
    assert codes(client.put(SPACE, [b""], [b"x"])) == ["invalid"]
    assert codes(client.put(SPACE, [b"k" * 513], [b"x"])) == ["too_large"]
    assert codes(client.put(SPACE, [b"k"], [b""])) == ["invalid"]


def test_too_long_a_block_is_refused_without_asking_the_node(client: Client) -> None:
    data = bytes(_native.BLOCK_BYTES_MAX + 1)
    assert codes(client.put(SPACE, [b"huge"], [data])) == ["too_large"]


def test_a_closed_client_says_so(node: Node) -> None:
    client = Client([node.address])
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.match(SPACE, [b"k"])


def test_a_request_may_be_dropped_while_it_runs(client: Client) -> None:
    data = np.zeros(32 << 20, np.uint8)
    for i in range(10):
        request = client.put(SPACE, [f"dropped-{i}".encode()], [data])
        del request  # cancels, and waits until nobody reads `data`
    gc.collect()
    assert codes(client.put(SPACE, [b"after"], [b"fine"])) == ["ok"]


def test_others_run_while_one_waits(tmp_path: Path) -> None:
    """The wait has let go of the interpreter: another thread cancels what is waited for."""
    frozen = Node(tmp_path / "frozen.dat").start()
    client = Client([frozen.address], timeout_ms=WAIT_MS)
    interval = sys.getswitchinterval()
    try:
        assert codes(client.put(SPACE, [b"k"], [b"x"])) == ["ok"]
        assert frozen.process is not None
        frozen.process.send_signal(signal.SIGSTOP)
        request = client.get(SPACE, [b"k"], [bytearray(1)])
        waits = threading.Event()
        other = threading.Thread(target=lambda: (waits.wait(), request.cancel()))
        other.start()
        sys.setswitchinterval(10 * WAIT_MS)  # nobody is made to let go: this thread does, in wait()
        waits.set()
        assert codes(request) == ["cancelled"], "it ended before its timeout"
    finally:
        sys.setswitchinterval(interval)
        frozen.kill()
    other.join()
    client.close()


def test_many_threads_share_a_client(client: Client) -> None:
    failures: list[str] = []

    def work(name: int) -> None:
        data = np.full(70_000, name, np.uint8)
        keys = [f"thread-{name}-{i}".encode() for i in range(20)]
        if codes(client.put(SPACE, keys, [data] * 20)) != ["ok"] * 20:
            failures.append(f"put by {name}")
        targets = [np.zeros_like(data) for _ in keys]
        if codes(client.get(SPACE, keys, targets)) != ["ok"] * 20:
            failures.append(f"get by {name}")
        if any((target != name).any() for target in targets):
            failures.append(f"bytes of {name}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_dead_node_costs_its_blocks_only(node: Node, tmp_path: Path) -> None:
    mortal = Node(tmp_path / "mortal.dat").start()
    client = Client([node.address, mortal.address], timeout_ms=3000)
    keys = [f"two-{i}".encode() for i in range(64)]
    assert codes(client.put(SPACE, keys, [key * 100 for key in keys])) == ["ok"] * 64
    mortal.kill()
    targets = [bytearray(len(key) * 100) for key in keys]
    after = codes(client.get(SPACE, keys, targets))
    assert set(after) <= {"ok", "unreachable", "timeout"}
    assert 10 < after.count("ok") < 54
    for key, target, code in zip(keys, targets, after, strict=True):
        assert code != "ok" or target == key * 100
    assert client.health()[0]["connected"] is True
    client.close()


def test_stat_of_nobody_is_unreachable() -> None:
    client = Client(["127.0.0.1:1"], timeout_ms=500)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        client.stat(0, 500)
    client.close()


def test_placement_is_that_of_python() -> None:
    nodes = [PlacementNode(node_id_of(f"10.0.0.{i}:9900"), 100 + i) for i in range(7)]
    for i in range(500):
        group = f"group-{i}".encode()
        print_ = group_fingerprint(SPACE, group)
        assert _native.group_fingerprint(SPACE, group) == tuple(print_)
        pairs = [(node.id, node.weight) for node in nodes]
        assert _native.place(tuple(print_), pairs) == place(print_, nodes)
        best = [place_ranked(print_, nodes, count) for count in (0, 3, 9)]
        assert [
            _native.place_ranked(SPACE, [group], pairs, count)[0] for count in (0, 3, 9)
        ] == best
    assert _native.place_ranked(SPACE, [], pairs, 1) == []
    assert _native.place_ranked(SPACE, [b"a", b"b"], [(1, 0)], 2) == [[], []]
    with pytest.raises(UsageError, match="16 bytes"):
        _native.place_ranked(b"short", [b"a"], pairs, 1)


def test_crc32c_of_known_bytes() -> None:
    assert _native.crc32c(b"123456789") == 0xE3069283
    assert _native.crc32c(b"6789", _native.crc32c(b"12345")) == 0xE3069283
