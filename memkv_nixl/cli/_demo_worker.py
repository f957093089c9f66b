"""A process of the demo that moves blocks through NIXL, as an engine would.

Reads one JSON command a line from standard input and answers each with one JSON line. It ends with
its standard input. `python -m memkv_nixl.cli._demo_worker PLAN`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from memkv_nixl._errors import InternalError, MemKVError
from memkv_nixl.agent import Status, TransferAgent
from memkv_nixl.cli._demo_plan import BATCH, GROUP, Plan

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

_STEP = 4096  # how far the bytes of one block are shifted against the next one's
_ASK_EVERY_S = 0.05


class Worker:
    """Knows the bytes of every block without having got them from the other process."""

    def __init__(self, plan: Plan) -> None:
        import numpy as np

        self._plan = plan
        self._np = np
        length = plan.block_bytes + plan.blocks * _STEP
        # Every block is a window of its own into the same random bytes.
        self._source: Bytes = np.random.default_rng(plan.seed).integers(0, 256, length, np.uint8)
        self._targets: Bytes = np.empty((GROUP + BATCH) * plan.block_bytes, np.uint8)
        self._agent = TransferAgent(
            plan.nodes,
            plan.namespace,
            timeout_ms=plan.timeout_ms,
        )
        self._agent.register_memory(self._source, self._targets)

    def close(self) -> None:
        """Lets go of NIXL."""
        self._agent.close()

    def spill(self) -> dict[str, Any]:
        """Puts every block: the first half one by one, the others in batches."""
        return self._measure(self._put)

    def fetch(self) -> dict[str, Any]:
        """Gets every block and compares every byte of those that came."""
        return self._measure(self._get)

    def wait_for_all(self, seconds: float) -> dict[str, Any]:
        """Asks until every block is there again, at most so long."""
        end = time.monotonic() + seconds
        keys, group = self._names(range(self._plan.blocks))
        while True:
            found = sum(match.found for match in self._agent.match(keys, group=group))
            if found == self._plan.blocks or time.monotonic() > end:
                return {"found": found}
            time.sleep(_ASK_EVERY_S)

    def _measure(self, move: Callable[[Sequence[int]], tuple[float, list[str]]]) -> dict[str, Any]:
        singles = self._plan.blocks // 2
        words: list[str] = []
        times: list[float] = []
        for block in range(singles):
            seconds, said = move([block])
            words += said
            if said == ["ok"]:
                times.append(seconds)
        in_batches = 0.0
        moved = 0
        for first in range(singles, self._plan.blocks, BATCH):
            seconds, said = move(range(first, min(first + BATCH, self._plan.blocks)))
            words += said
            in_batches += seconds
            moved += said.count("ok")
        counts = {word: words.count(word) for word in dict.fromkeys(words)}
        return {
            "blocks": self._plan.blocks,
            "hits": counts.get("ok", 0),
            "misses": len(words) - counts.get("ok", 0),
            "statuses": counts,
            "gb_per_s": round(moved * self._plan.block_bytes / in_batches / 1e9, 3),
            "p50_ms": _percentile(times, 50),
            "p99_ms": _percentile(times, 99),
        }

    def _put(self, blocks: Sequence[int]) -> tuple[float, list[str]]:
        keys, group = self._names(blocks)
        buffers = [self._bytes(block) for block in blocks]
        start = time.perf_counter()
        statuses = self._agent.put(keys, buffers, group=group, depth=[b % GROUP for b in blocks])
        return time.perf_counter() - start, [str(status) for status in statuses]

    def _get(self, blocks: Sequence[int]) -> tuple[float, list[str]]:
        keys, group = self._names(blocks)
        size = self._plan.block_bytes
        targets = [self._targets[i * size : (i + 1) * size] for i in range(len(blocks))]
        for target in targets:
            target[:] = 0  # what an earlier get left must not pass for this one's
        start = time.perf_counter()
        statuses = self._agent.get(keys, targets, group=group)
        seconds = time.perf_counter() - start
        for block, target, status in zip(blocks, targets, statuses, strict=True):
            if status is Status.OK and not self._np.array_equal(target, self._bytes(block)):
                raise InternalError(f"block {block} came with wrong bytes")
        return seconds, [str(status) for status in statuses]

    def _names(self, blocks: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
        return [self._plan.key(b) for b in blocks], [self._plan.group(b) for b in blocks]

    def _bytes(self, block: int) -> Bytes:
        return self._source[block * _STEP : block * _STEP + self._plan.block_bytes]


def _percentile(seconds: list[float], percent: int) -> float | None:
    if len(seconds) < 2:
        return None
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1e3, 3)


def main() -> None:
    """Answers commands until standard input ends."""
    # NIXL logs to standard output; the answers get a descriptor of their own.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        worker: Worker | None = None
        for line in sys.stdin:
            try:
                if worker is None:
                    worker = Worker(Plan.from_json(sys.argv[1]))
                command = json.loads(line)
                said = getattr(worker, command.pop("do"))(**command)
            except MemKVError as error:
                said = {"error": str(error), "code": error.code}
            answers.write(json.dumps(said) + "\n")
            answers.flush()
        if worker is not None:
            worker.close()
    # Not through the destructors of whatever NIXL loaded: UCX's can crash after all is done.
    os._exit(0)


if __name__ == "__main__":
    main()
