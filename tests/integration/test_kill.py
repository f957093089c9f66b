"""kill -9 of a node under load, again and again: whatever it serves afterwards is right.

A block's bytes follow from its key, so that every byte that ever comes back can be judged. A floor
on how many blocks come back makes sure that a node that forgets everything does not pass.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from tests.integration.nodes import HANDS, Node

SPACE = namespace_id("kill")
ROUNDS = 10  # with each number of hands
BATCH = 8
WAIT_MS = 30_000
SIZES = (1, 4096, 65_537, 300_001, 1 << 20, 5 << 20)


def value_of(key: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    seed = int.from_bytes(key, "little")
    size = SIZES[seed % len(SIZES)]
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.fixture(params=HANDS)
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    flags = ("--index-flush-ms", "5", "--hands", request.param)
    node = Node(tmp_path / "node.dat", flags=flags).start()
    yield node
    node.kill()


def put_until_killed(client: Client, node: Node, keys: list[bytes], kill_after: int) -> list[bytes]:
    """Puts batches, kills the node with two under way, gives the keys that were acknowledged."""
    acknowledged: list[bytes] = []
    batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    for number, batch in enumerate(batches):
        request = client.put(SPACE, batch, [value_of(key) for key in batch])
        if number >= kill_after:
            more = client.put(
                SPACE, batches[number + 1], [value_of(k) for k in batches[number + 1]]
            )
            node.kill()
            assert more.wait(WAIT_MS)
        assert request.wait(WAIT_MS)
        codes = [CODES[code] for code in request.codes()]
        acknowledged += [k for k, c in zip(batch, codes, strict=True) if c in ("ok", "exists")]
        if number >= kill_after:
            break
    return acknowledged


def read_back(client: Client, keys: list[bytes]) -> int:
    """Gets every key, checks every byte that comes, and counts the blocks that did."""
    served = 0
    for i in range(0, len(keys), BATCH):
        batch = keys[i : i + BATCH]
        wanted = [value_of(key) for key in batch]
        targets = [np.zeros_like(value) for value in wanted]
        request = client.get(SPACE, batch, targets)
        assert request.wait(WAIT_MS)
        for key, value, target, code in zip(batch, wanted, targets, request.codes(), strict=True):
            if CODES[code] == "ok":
                np.testing.assert_array_equal(value, target, err_msg=f"block {key.hex()}")
                served += 1
            else:
                assert CODES[code] in ("not_found", "corrupt"), CODES[code]
    return served


@pytest.mark.timeout(300)
def test_whatever_is_served_after_kill_9_is_right(node: Node) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    known: list[bytes] = []
    acknowledged = served = 0
    for round_ in range(ROUNDS):
        client = Client([node.address], timeout_ms=20_000)
        keys = [rng.getrandbits(64).to_bytes(8, "little") for _ in range(BATCH * 10)]
        # Some known blocks are dropped first: they must never come back.
        dropped = rng.sample(known, min(3, len(known)))
        request = client.drop(SPACE, dropped)
        assert request.wait(WAIT_MS)
        gone = [k for k, c in zip(dropped, request.codes(), strict=True) if CODES[c] == "ok"]
        put = put_until_killed(client, node, keys, kill_after=rng.randrange(0, 8))
        client.close()
        node.start()
        client = Client([node.address], timeout_ms=20_000)
        known = [key for key in known if key not in gone] + keys
        acknowledged += len(put)
        served += read_back(client, put)
        if round_ % 5 == 4:
            read_back(client, known)
        assert read_back(client, gone) == 0
        client.close()
    print(f"{served} of {acknowledged} acknowledged blocks were served after a kill")
    # What was acknowledged right before a kill may be lost; most is not.
    assert served >= acknowledged * 0.5
