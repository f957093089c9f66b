"""Those who judge a run of faults find what they are there for: they are tried on a store that is
well, and on stores that each do one thing wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._errors import CODES
from memkv_nixl.cli import EXIT_DISMISSED
from tests.faults import load
from tests.faults.load import DEADLINE_MS, SLACK_S, Judge, Worker, too_late
from tests.faults.noise import Noise, waited_s
from tests.faults.story import Deck, held_up_s
from tests.faults.supervisor import Kept, Policy, policy_of

REQUESTS = 400
WRONGS = {
    "stale": "a get gave the version",
    "torn": "bytes are wrong",
    "late": "a byte was written after its get was over",
    "conflict": "a put was answered conflict",
    "endless": "has no end",
}


class Answer:
    """A request that is over at once, unless it has no end."""

    def __init__(self, codes: list[str], *, ends: bool = True) -> None:
        self._codes, self._ends = codes, ends

    def wait(self, _timeout_ms: int) -> bool:
        return self._ends

    def codes(self) -> list[int]:
        return [CODES.index(code) for code in self._codes]


class Store:
    """A pool that does one thing wrong now and then; `wrong` says what."""

    def __init__(self, wrong: str = "") -> None:
        self._wrong, self._rng = wrong, random.Random(1)
        self._blocks: dict[bytes, Any] = {}
        self._dropped: dict[bytes, Any] = {}
        self._target: Any = None

    def stats(self) -> dict[str, int]:
        return {"epoch": 1}

    def put(self, _space: bytes, keys: list[bytes], blocks: list[Any]) -> Answer:
        if self._errs("conflict"):
            return Answer(["conflict"] * len(keys))
        fresh = ["exists" if key in self._blocks else "ok" for key in keys]
        self._blocks = {**dict(zip(keys, blocks, strict=True)), **self._blocks}
        return Answer(fresh)

    def get(self, _space: bytes, keys: list[bytes], targets: list[Any]) -> Answer:
        if self._errs("late") and self._target is not None:
            self._target[-1] = 0
        self._target = targets[0]
        codes = [self._read(key, target) for key, target in zip(keys, targets, strict=True)]
        return Answer(codes, ends=not self._errs("endless"))

    def drop(self, _space: bytes, keys: list[bytes]) -> Answer:
        codes = ["ok" if key in self._blocks else "not_found" for key in keys]
        for key in keys:
            if key in self._blocks:
                self._dropped[key] = self._blocks.pop(key)
        return Answer(codes)

    def _read(self, key: bytes, target: Any) -> str:
        block = self._blocks.get(key)
        if self._errs("stale"):
            block = self._dropped.get(key, block)
        if block is None:
            return "not_found"
        target[:] = block
        if self._errs("torn"):
            target[-1] ^= 1
        return "ok"

    def _errs(self, wrong: str) -> bool:
        return self._wrong == wrong and self._rng.random() < 0.2


class Turns:
    """Stands for the event that ends a worker, after so many requests."""

    def __init__(self, count: int) -> None:
        self._left = count

    def wait(self, _seconds: float) -> bool:
        self._left -= 1
        return self._left < 0


def judged(store: Any) -> list[str]:
    judge = Judge()
    turns: Any = Turns(REQUESTS)
    Worker("one", store, judge, random.Random(2)).run(turns)
    return judge.troubles


def test_a_store_that_is_well_is_not_blamed() -> None:
    assert judged(Store()) == []


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_store_that_is_wrong_is_found(wrong: str) -> None:
    troubles = judged(Store(wrong))
    assert any(WRONGS[wrong] in trouble for trouble in troubles), troubles[:3]


def test_a_request_is_late_by_more_than_its_machine_was() -> None:
    judge, noise = Judge(), Noise()
    deadline_s = DEADLINE_MS / 1000
    judge.took("get", 10.0, 10.0 + deadline_s)
    judge.took("put", 20.0, 20.0 + deadline_s + SLACK_S / 2)
    assert too_late(judge, noise)[0] == []
    judge.took("drop", 30.0, 30.0 + deadline_s + 2 * SLACK_S)
    found, worst = too_late(judge, noise)
    assert len(found) == 1
    assert "a drop was over" in found[0]
    assert worst == pytest.approx(2 * SLACK_S)
    noise.note(30.5, 30.5 + 2 * SLACK_S, 2 * SLACK_S)
    assert too_late(judge, noise)[0] == []


def test_no_two_blocks_have_a_word_in_common() -> None:
    keys = [(b"a\x04", 0), (b"a\x04", 1), (b"b\x04", 0)]
    words = [load.content(*key).view("u8") for key in keys]
    assert not (words[0] == words[1]).any()
    assert not (words[0] == words[2]).any()
    assert (load.content(b"a\x04", 0) == load.content(b"a\x04", 0)).all()


@contextmanager
def kept(folder: Path, script: str, policy: Policy) -> Iterator[Kept]:
    process = Kept("it", [sys.executable, "-c", script], folder / "log", policy)
    try:
        yield process
    finally:
        process.stop()


def test_what_was_killed_is_started_again_by_its_policy(tmp_path: Path) -> None:
    policy = Policy("on-failure", 0.1)
    with kept(tmp_path, "import signal; signal.pause()", policy) as it:
        first = it.started_at
        starts = it.kill()
        assert starts == 2
        it.wait_started(starts)
        assert it.started_at - first >= policy.after_s
        assert it.starts == 2


def test_who_is_dead_already_is_not_killed(tmp_path: Path) -> None:
    script = "import signal; signal.pause()"
    with kept(tmp_path, script, Policy("on-failure", 3600.0)) as it:
        assert (it.kill(), it.kill()) == (2, None)


def test_what_ended_for_good_is_not(tmp_path: Path) -> None:
    policy, blamed = policy_of("memkv-node@.service"), pytest.raises(AssertionError, match="with 5")
    with kept(tmp_path, f"raise SystemExit({EXIT_DISMISSED})", policy) as it, blamed:
        it.wait_started(2)
    assert policy == Policy("on-failure", 2.0, (2, 5))
    assert [policy.wants(status) for status in (-9, 0, 1, 2)] == [True, False, True, False]
    assert policy_of("memkv-control.service") == Policy("on-failure", 2.0)


def test_noise_is_what_a_thread_had_to_wait() -> None:
    with Noise() as noise:
        began = time.monotonic()
        hold_the_interpreter(0.05)
        ended = time.monotonic()
    assert noise.worst(began, ended) > 0.02
    assert noise.worst(ended + 60) == 0.0


def test_a_deck_gives_every_card_before_any_comes_again() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        deck = Deck("abcab", rng)
        for _ in range(4):
            assert sorted(deck.draw() for _ in range(5)) == list("aabbc")
        first = deck.draw()
        deck.put_back(first)
        assert sorted(deck.draw() for _ in range(5)) == list("aabbc"), seed


def test_a_process_that_was_started_anew_is_held_up_from_its_start() -> None:
    before = {"agent": {1: 5.0, 2: 1.0}, "etcd": {3: 2.0}}
    now = {"agent": {1: 5.25, 4: 0.5}, "etcd": {3: 2.0}}
    assert held_up_s(before, now) == 0.5
    assert held_up_s(before, {**now, "etcd": {3: 4.0}}) == 2.5


def test_the_kernel_says_how_long_a_process_waited() -> None:
    cores = sorted(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{cores[0]}}})\nwhile True: pass"
    both = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    end = time.monotonic() + 30
    try:
        while min(waited_s(process.pid) for process in both) < 0.2:
            assert time.monotonic() < end, "two that share a core never waited"
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert waited_s(both[0].pid) == 0.0


def hold_the_interpreter(seconds: float) -> None:
    """Nobody else gets to run meanwhile."""
    before, end = sys.getswitchinterval(), time.monotonic() + seconds
    sys.setswitchinterval(2 * seconds)
    try:
        while time.monotonic() < end:
            pass
    finally:
        sys.setswitchinterval(before)
